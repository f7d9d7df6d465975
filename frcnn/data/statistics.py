"""What a recipe depends on in a dataset."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from frcnn import config
from frcnn.data.coco import Index
from frcnn.data.sampling import repeat_factors
from frcnn.data.suggestions import suggest
from frcnn.errors import UserError

RARE_SHARE = 0.02  # classes in a smaller share of the images are repeated
MAX_ASPECT = 3.0  # long / short side; more elongated images are shrunk
SYMMETRY_BOXES = 1000  # fewer boxes do not show whether there is an up direction
SYMMETRY_DISTANCE = 0.05  # between the distribution of vertical positions and its mirror image (Kolmogorov-Smirnov)


class Statistics(NamedTuple):
    """A training split in numbers.

    Attributes:
        images: number of training images.
        validation_images: of the validation split; 0 without one.
        boxes_per_image: 95% of the images have at most so many.
        most_boxes: in one image.
        min_size: short side, pixels, at which the boxes of every class are large enough to be found.
        small_side: at that size, 90% of the boxes of every class are at least so large, pixels.
        anchor_sizes: for P2..P6 at that size.
        coverage: share of boxes that these anchors match, mean over the classes.
        aspects: median and 99% quantile of long / short side, rounded up.
        rarest: smallest share of images that show a class, of the classes that occur.
        repeats: mean repeat factor at a threshold of ``RARE_SHARE``.
        has_no_up: boxes are distributed vertically as in a mirror, so that images seem to have no up direction.
    """

    images: int
    validation_images: int
    classes: int
    boxes: int
    boxes_per_image: int
    most_boxes: int
    min_size: int
    small_side: float
    anchor_sizes: tuple[float, ...]
    coverage: float
    aspects: tuple[float, float]
    rarest: float
    repeats: float
    has_no_up: bool


def dataset_statistics(index: Index, validation: Index | None, options: config.Config) -> Statistics:
    """Statistics of a dataset.

    Args:
        options: anchors and preprocessing that suggestions start from.

    Raises:
        UserError: no image has an object.
    """
    suggestions = suggest(index, options)
    if suggestions.min_size is None:
        raise UserError(f"no image in {index.source} has an object to train on, so there is nothing to suggest")
    counts = [int((~record.crowd).sum()) for record in index.images]
    aspects = [max(record.height, record.width) / max(min(record.height, record.width), 1) for record in index.images]
    median, wide = (float(np.ceil(100 * min(np.quantile(aspects, q), MAX_ASPECT)) / 100) for q in (0.5, 0.99))
    shown = np.bincount(
        np.concatenate([np.unique(record.labels[~record.crowd]) for record in index.images]),
        minlength=len(index.class_names) + 1,
    )
    return Statistics(
        images=len(index.images),
        validation_images=len(validation.images) if validation else 0,
        classes=len(index.class_names),
        boxes=sum(counts),
        boxes_per_image=int(np.ceil(np.quantile(counts, 0.95))),
        most_boxes=max(counts),
        min_size=suggestions.min_size,
        small_side=suggestions.small_side,
        anchor_sizes=suggestions.anchor_sizes,
        coverage=suggestions.coverage[1],
        aspects=(median, wide),
        rarest=float(shown[shown > 0].min() / len(index.images)),
        repeats=float(repeat_factors(index, RARE_SHARE).mean()),
        has_no_up=_has_no_up(index),
    )


def _has_no_up(index: Index) -> bool:
    centers = np.concatenate(
        [(record.boxes[:, 1] + record.boxes[:, 3])[~record.crowd] / (2 * record.height) for record in index.images]
    )
    if len(centers) < SYMMETRY_BOXES:
        return False
    up, down = np.sort(centers), np.sort(1 - centers)
    places = np.concatenate([up, down])
    distance = np.abs(np.searchsorted(up, places, "right") - np.searchsorted(down, places, "right")).max()
    return bool(distance / len(centers) <= SYMMETRY_DISTANCE)
