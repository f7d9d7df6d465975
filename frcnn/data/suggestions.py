"""Suggestions for image size and anchors from a dataset's boxes, and classes with too few of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from frcnn import config
from frcnn.data.coco import Index
from frcnn.data.transforms import resized_size

SMALL_SIDE = 24.0  # pixels after the resize, six cells of P2; 90% of the boxes of every class should reach it
SIZE_LIMITS = (224, 1024)  # suggested short sides stay between these
FEW_BOXES = 50  # classes with fewer are hard to learn and harder to measure
GOOD_IOU = 0.7  # the RPN's default foreground_iou
WORTHWHILE = 0.05  # gain in covered boxes that justifies other anchors
STRIDES = (4, 8, 16, 32, 64)  # of P2..P6
SMALLEST_ANCHORS = (8, 12, 16, 20, 24, 32, 48, 64)  # pixels, tried as the first size
ANCHOR_STEPS = (1.25, 1.5, 1.75, 2.0)  # tried as the ratio of neighbouring sizes
MAX_SAMPLES = 20_000  # boxes used to compare anchors


class Suggestions(NamedTuple):
    """Suggested options for a dataset.

    Attributes:
        min_size: short side after the resize, pixels; None without boxes.
        anchor_sizes: for P2..P6 at that size, pixels; the configured ones unless others are clearly better.
        coverage: share of boxes that some anchor matches with an IoU of 0.7, mean over the classes, for the configured
            and the suggested sizes.
        watch: one line per kind of class with too few boxes.
        small_side: at ``min_size``, 90% of the boxes of every class with enough boxes are at least so large, pixels.
    """

    min_size: int | None
    anchor_sizes: tuple[float, ...]
    coverage: tuple[float, float]
    watch: tuple[str, ...]
    small_side: float


def suggest(index: Index, options: config.Config) -> Suggestions:
    """Suggest ``image.min_size`` and ``anchors.sizes``, and list classes with too few boxes."""
    watch = _watch(index)
    small = _small_share(index)
    if small is None:
        return Suggestions(None, options.anchors.sizes, (0.0, 0.0), watch, 0.0)
    min_size = _suggest_min_size(index, small)
    small_side = small * min_size
    sides, labels = box_sides(index, options.image, min_size), _labels(index)
    every = -(-len(sides) // MAX_SAMPLES)
    sides, labels, ratios = sides[::every], labels[::every], options.anchors.aspect_ratios
    before = _coverage(sides, labels, options.anchors.sizes, ratios)
    ladders = [
        tuple(float(round(first * step**level)) for level in range(5))
        for first in SMALLEST_ANCHORS
        for step in ANCHOR_STEPS
    ]
    covered = [_coverage(sides, labels, ladder, ratios) for ladder in ladders]
    best = int(np.argmax(covered))
    if covered[best] < before + WORTHWHILE:
        return Suggestions(min_size, options.anchors.sizes, (before, before), watch, small_side)
    return Suggestions(min_size, ladders[best], (before, covered[best]), watch, small_side)


def box_sides(index: Index, image: config.Image, min_size: int) -> np.ndarray:
    """Widths and heights ``[M, 2]`` of all boxes except crowd regions, pixels of the image resized to ``min_size``."""
    max_size = round(min_size * image.max_size / max(image.min_size))
    sides = [np.zeros((0, 2))]
    for record in index.images:
        boxes = record.boxes[~record.crowd].astype(np.float64)
        height, width = resized_size(record.height, record.width, min_size, max_size, image.resize)
        sides.append((boxes[:, 2:] - boxes[:, :2]) * (width / record.width, height / record.height))
    return np.concatenate(sides)


def class_counts(index: Index) -> np.ndarray:
    """Number of boxes of every class ``[K]`` int64, without crowd regions."""
    return np.bincount(_labels(index), minlength=len(index.class_names) + 1)[1:]


def _labels(index: Index) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *(record.labels[~record.crowd] for record in index.images)])


def _small_share(index: Index) -> float | None:
    """Square root of the area over the image's short side, which 90% of the boxes of every class exceed.

    Classes with too few boxes count only if there are no others; None without boxes.
    """
    shares = [np.zeros(0)]
    for record in index.images:
        boxes = record.boxes[~record.crowd].astype(np.float64)
        shares.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) / min(record.height, record.width))
    share, labels, counts = np.concatenate(shares), _labels(index), class_counts(index)
    if not len(share):
        return None
    common = [label for label, count in enumerate(counts.tolist(), start=1) if count >= FEW_BOXES]
    groups = [share[labels == label] for label in common] or [share]
    return min(float(np.quantile(group, 0.1)) for group in groups)


def _suggest_min_size(index: Index, small: float) -> int:
    """Smallest multiple of 32 at which the boxes of that share of the image reach SMALL_SIDE."""
    wanted = SMALL_SIDE / small
    short = float(np.median([min(record.height, record.width) for record in index.images]))
    # More than twice the resolution of the file adds no detail.
    largest = max(min(2 * short, SIZE_LIMITS[1]), SIZE_LIMITS[0])
    return 32 * int(np.ceil(np.clip(wanted, SIZE_LIMITS[0], largest) / 32))


def _coverage(sides: np.ndarray, labels: np.ndarray, sizes: Sequence[float], ratios: Sequence[float]) -> float:
    """Share of boxes that some anchor, a quarter stride off center, matches with an IoU of 0.7: mean over classes."""
    best = np.zeros(len(sides))
    areas = sides.prod(axis=1)
    for size, stride in zip(sizes, STRIDES, strict=True):
        for ratio in ratios:
            anchor = np.array([size / ratio**0.5, size * ratio**0.5])
            overlap = np.minimum(np.minimum(sides, anchor), (sides + anchor) / 2 - stride / 4)
            shared = np.maximum(overlap, 0).prod(axis=1)
            best = np.maximum(best, shared / (areas + anchor.prod() - shared))
    matched = np.bincount(labels, best >= GOOD_IOU)
    boxes = np.bincount(labels)
    return float((matched[boxes > 0] / boxes[boxes > 0]).mean())


def _watch(index: Index) -> tuple[str, ...]:
    counts = dict(zip(index.class_names, class_counts(index).tolist(), strict=True))
    without = [repr(name) for name, count in counts.items() if count == 0]
    rare = [f"{name!r} ({count})" for name, count in counts.items() if 0 < count < FEW_BOXES]
    lines = []
    if without:
        lines.append(f"{len(without)} without any box, which cannot be learned or measured: {', '.join(without)}")
    if rare:
        lines.append(f"{len(rare)} with fewer than {FEW_BOXES} boxes, whose AP will be unreliable: {', '.join(rare)}")
    return tuple(lines)
