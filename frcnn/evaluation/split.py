"""Detections of a whole split, found by all ranks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from frcnn.data.coco import Index
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.evaluation.coco import gather_detections
from frcnn.inference import Detections, Detector


class Stopped(Exception):
    """A split was given up on the way."""


def detect_split(
    detector: Detector,
    index: Index,
    world: World,
    unreadable_images: UnreadableImages,
    batch_size: int = 1,
    progress: Callable[[int, int], None] = lambda done, images: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[int, Detections]:
    """Detections by image id of every image, the same on all ranks, each of which finds those of its share.

    Args:
        unreadable_images: counts the images of the share that could not be read.
        progress: told (images done, all images of the index) by each rank of its own share.
        stopped: asked after each batch; once it is true on some rank, all give up.

    Raises:
        Stopped: on all ranks, where they gave up.
    """

    def tell(done: int, images: int) -> None:
        progress(done, images)
        if stopped():
            raise Stopped

    found: dict[int, Detections] = {}
    with contextlib.suppress(Stopped):
        found = detector.detect_index(index, batch_size, tell, world.rank, world.size, unreadable_images)
    if world.allreduce_max(int(stopped())):
        raise Stopped
    return gather_detections(index, found, world)


def unreadable(unreadable_images: UnreadableImages, world: World) -> dict[str, str]:
    """Path and reason of each image that some rank could not read."""
    everyones = [json.loads(text) for text in world.allgather_strings(json.dumps(unreadable_images.known()))]
    return {path: reason for known in everyones for path, reason in known.items()}
