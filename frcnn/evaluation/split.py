"""Detections of a whole split, computed by all ranks together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from frcnn.data.coco import Index
from frcnn.data.decode import UnreadableImage, upright_size
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.evaluation.coco import gather_detections
from frcnn.inference import Detections, Detector
from frcnn.tiling import TiledDetector


class Stopped(Exception):
    """The detection of a split was abandoned."""


def check_headers(index: Index, world: World, unreadable_images: UnreadableImages) -> None:
    """Open every image, without decoding it, so that an evaluation that cannot succeed fails before it starts.

    Raises:
        AgreedError: too many images are missing or have no valid header.
        UserError: the same, in a world of one process.
    """
    for record in index.images[world.rank :: world.size]:
        try:
            upright_size(record.path)
        except UnreadableImage as error:
            unreadable_images.add(record.path, str(error))
    _check_limit(unreadable_images, world)


def detect_split(
    detector: Detector | TiledDetector,
    index: Index,
    world: World,
    unreadable_images: UnreadableImages,
    batch_size: int = 1,
    progress: Callable[[int, int], None] = lambda done, images: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[int, Detections]:
    """Detections of every image by image id. Each rank detects its part; the merged result is the same on all ranks.

    Args:
        unreadable_images: counts the images of this rank's part that cannot be read.
        progress: called with (images done, number of images in the index) for this rank's part.
        stopped: called after each batch; once it returns true on some rank, all ranks stop.

    Raises:
        Stopped: on all ranks, if one of them stopped.
        AgreedError: too many images are unreadable; a rank that finds more than allowed in its part stops at once.
        UserError: the same, in a world of one process.
    """

    def report(done: int, images: int) -> None:
        progress(done, images)
        if stopped() or unreadable_images.too_many:
            raise Stopped

    found: dict[int, Detections] = {}
    with contextlib.suppress(Stopped):
        found = detector.detect_index(index, batch_size, report, world.rank, world.size, unreadable_images)
    if world.allreduce_max(int(stopped())):
        raise Stopped
    _check_limit(unreadable_images, world)
    return gather_detections(index, found, world)


def unreadable(unreadable_images: UnreadableImages, world: World) -> dict[str, str]:
    """Path and reason of each image that some rank could not read."""
    reasons = [json.loads(text) for text in world.allgather_strings(json.dumps(unreadable_images.known()))]
    return {path: reason for known in reasons for path, reason in known.items()}


def _check_limit(unreadable_images: UnreadableImages, world: World) -> None:
    known = unreadable(unreadable_images, world)
    with world.raise_together():
        unreadable_images.check(known)
