"""Evaluation of a model folder on one split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from frcnn.data.coco import Index, match_classes
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.evaluation.coco import Metrics, evaluate_detections
from frcnn.evaluation.split import check_headers, detect_split, unreadable
from frcnn.inference import Detections, Detector
from frcnn.tiling import TiledDetector, Tiling
from frcnn.weights.model_folder import ModelFolder

# Opens a progress bar for (total, description, unit); yields the callback (done, total).
ProgressBar = Callable[[int, str, str], AbstractContextManager[Callable[[int, int], None]]]


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Attributes:
        metrics: COCO metrics; None on ranks other than 0.
        split: the index of the split, with the model's classes.
        unreadable: path and reason of the images that counted as blank, of all ranks.
    """

    metrics: Metrics | None
    split: Index
    unreadable: dict[str, str]


class DetectedSplit(NamedTuple):
    """Detections of a model in a split.

    Attributes:
        split: the index of the split, with the model's classes.
        results: detections by image id, the same on all ranks.
        unreadable: path and reason of the images that counted as blank, of all ranks.
    """

    split: Index
    results: dict[int, Detections]
    unreadable: dict[str, str]


def no_progress_bar(total: int, description: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, total: None)


def detect_model(
    model: ModelFolder,
    find_index: Callable[[], Index],
    world: World,
    batch_size: int = 1,
    progress_bar: ProgressBar = no_progress_bar,
    tiling: Tiling | None = None,
    test: str | None = None,
) -> DetectedSplit:
    """Detect the images of a split on all ranks.

    Args:
        find_index: loads the split; called on every rank.
        tiling: detect in tiles; None: in the images as a whole.
        test: options of the group ``test`` that differ from the model's.

    Raises:
        UserError: the split or the model is invalid, or more images are unreadable than ``data.max_bad_image_share``.
        AgreedError: the same, with several ranks.
    """
    with world.raise_together():
        index = match_classes(find_index(), model.class_names)
    unreadable_images = UnreadableImages(index, model.config.data.max_bad_image_share)
    check_headers(index, world, unreadable_images)
    with world.raise_together():
        detector = Detector.load(model.path, test)
    with progress_bar(len(index.images), "detecting", "image") as progress:
        tiled = TiledDetector(detector, tiling) if tiling else detector
        results = detect_split(tiled, index, world, unreadable_images, batch_size, progress)
    return DetectedSplit(index, results, unreadable(unreadable_images, world))


def evaluate_model(
    model: ModelFolder,
    find_index: Callable[[], Index],
    world: World,
    batch_size: int = 1,
    progress_bar: ProgressBar = no_progress_bar,
    tiling: Tiling | None = None,
    test: str | None = None,
) -> Evaluation:
    """Detect the images of a split on all ranks and compute the COCO metrics on rank 0; see :func:`detect_model`."""
    index, results, unread = detect_model(model, find_index, world, batch_size, progress_bar, tiling, test)
    if not world.is_main:
        return Evaluation(None, index, unread)
    with progress_bar(len(index.class_names), "evaluating", "class") as progress:
        return Evaluation(evaluate_detections(index, results, progress), index, unread)
