"""COCO's matching of detections with objects, kept per detection.

pycocotools matches and summarizes in one go. Thresholds, error analysis and the bootstrap need to know what happened
to each detection, and metrics of many subsets of the images without matching again. The rules are those of
``COCOeval.evaluateImg`` (crowd regions, objects outside the area range, at most 100 detections of a class per image),
and the IoU is computed by pycocotools; ``tests/evaluation/test_matching.py`` compares the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools import mask

from frcnn.data.coco import Index
from frcnn.inference import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Inclusive limits in square pixels of the original image.
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
SIZES = tuple(name for name in AREA_RANGES if name != "all")
MAX_DETECTIONS = 100  # of a class in an image

PROGRESS_EVERY = 1000  # pairs of an image and a class between two calls of the progress function


class Objects(NamedTuple):
    """Annotated objects of a split, sorted by label and image; rows of the same image keep their order.

    Attributes:
        image: ``[M]`` position of the image in the index.
        label: ``[M]`` 1..K.
        row: ``[M]`` row in the image's record.
        box: ``[M, 4]`` float32 corners.
        area: ``[M]`` float64, square pixels.
        crowd: ``[M]`` bool.
    """

    image: np.ndarray
    label: np.ndarray
    row: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray


class Found(NamedTuple):
    """Detections of a split, sorted by label, then by descending score, then by image.

    Attributes:
        image: ``[N]`` position of the image in the index.
        label: ``[N]`` 1..K.
        row: ``[N]`` row in the image's detections.
        box: ``[N, 4]`` float32 corners.
        area: ``[N]`` float64, square pixels.
        score: ``[N]`` float32.
    """

    image: np.ndarray
    label: np.ndarray
    row: np.ndarray
    box: np.ndarray
    area: np.ndarray
    score: np.ndarray


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections and objects of a split, and which of them match.

    Attributes:
        class_names: label k is ``class_names[k - 1]``.
        images: number of images.
        matched: ``[T, A, N]`` bool: whether a detection matches an object, by IoU threshold and area range.
        ignored: ``[T, A, N]`` bool: the detection counts neither way, because it matches a crowd region or an object
            outside the area range, or has no match and is itself outside of the range.
        partner: ``[N]`` int32: the object that a detection matches at IoU 0.5, over all areas; -1 for none.
        object_ignored: ``[A, M]`` bool: crowd regions and objects outside the area range.
    """

    class_names: tuple[str, ...]
    images: int
    objects: Objects
    found: Found
    matched: np.ndarray
    ignored: np.ndarray
    partner: np.ndarray
    object_ignored: np.ndarray

    def of_label(self, label: int) -> slice:
        """The rows of ``found`` with this label."""
        return slice(*np.searchsorted(self.found.label, [label, label + 1]))

    def objects_of_label(self, label: int) -> slice:
        """The rows of ``objects`` with this label."""
        return slice(*np.searchsorted(self.objects.label, [label, label + 1]))


def match_detections(
    index: Index, results: Mapping[int, Detections], progress: Callable[[], None] = lambda: None
) -> Matches:
    """Match the detections of a split with its objects, as COCO does.

    Args:
        results: detections by image id, labels as in the index; an image without an entry has no detections.
        progress: called now and then, so that a watchdog can be fed from it.
    """
    objects = _objects(index)
    found, rank = _found(index, results)
    found = Found(*(column[rank < MAX_DETECTIONS] for column in found))
    limits = np.array(list(AREA_RANGES.values()))[:, :, None]
    object_ignored = objects.crowd | (objects.area < limits[:, 0]) | (objects.area > limits[:, 1])
    matched = np.zeros((len(IOU_THRESHOLDS), len(AREA_RANGES), len(found.score)), bool)
    ignored = np.zeros_like(matched)
    partner = np.full(len(found.score), -1, np.int32)
    for number, (rows, own) in enumerate(_pairs(found, objects, len(index.images))):
        if number % PROGRESS_EVERY == 0:
            progress()
        ious = mask.iou(_xywh(found.box[rows]), _xywh(objects.box[own]), objects.crowd[own].astype(np.uint8))
        _match(ious, objects.crowd[own], object_ignored[:, own], matched[..., rows], ignored[..., rows], partner[rows])
        partner[rows][partner[rows] >= 0] += own.start
    ignored |= ~matched & ((found.area < limits[:, 0]) | (found.area > limits[:, 1]))
    order = np.lexsort((found.image, -found.score, found.label))  # stable
    return Matches(
        class_names=index.class_names,
        images=len(index.images),
        objects=objects,
        found=Found(*(column[order] for column in found)),
        matched=matched[..., order],
        ignored=ignored[..., order],
        partner=partner[order],
        object_ignored=object_ignored,
    )


def _match(
    ious: np.ndarray,
    crowd: np.ndarray,
    object_ignored: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
    partner: np.ndarray,
) -> None:
    """Match the detections of one class in one image, at all thresholds and area ranges together.

    Each detection takes the object with the largest IoU among those that are left; one that is ignored only if no
    other one reaches the threshold. Of equal IoUs the last one counts. A crowd region may match any number of times.

    Args:
        ious: ``[D, G]``, detections by descending score.
        crowd: ``[G]``.
        object_ignored: ``[A, G]``.
        matched: ``[T, A, D]``, ignored: likewise, partner: ``[D]``; written.
    """
    columns = np.flatnonzero(ious.max(axis=0) >= IOU_THRESHOLDS[0])
    if not columns.size:
        return
    ious, crowd, object_ignored = ious[:, columns], crowd[columns], object_ignored[:, columns]
    thresholds = IOU_THRESHOLDS[:, None, None]
    left = np.ones((len(IOU_THRESHOLDS), *object_ignored.shape), bool)
    last = len(columns) - 1
    for row in np.flatnonzero(ious.max(axis=1) >= IOU_THRESHOLDS[0]):
        possible = left & (ious[row] >= thresholds)
        counted = possible & ~object_ignored
        possible = np.where(counted.any(axis=2, keepdims=True), counted, possible)
        best = last - np.where(possible, ious[row], -1.0)[..., ::-1].argmax(axis=2)
        has_match = possible.any(axis=2)
        matched[..., row] = has_match
        ignored[..., row] = has_match & np.take_along_axis(object_ignored, best.T, axis=1).T
        taken = np.nonzero(has_match & ~crowd[best])
        left[(*taken, best[taken])] = False
        if has_match[0, 0]:
            partner[row] = columns[best[0, 0]]


def _objects(index: Index) -> Objects:
    records = index.images
    counts = [len(record.labels) for record in records]
    label = _concatenate([record.labels for record in records], np.int32)
    order = np.argsort(label, kind="stable")
    columns = Objects(
        image=np.repeat(np.arange(len(records), dtype=np.int32), counts),
        label=label,
        row=_concatenate([np.arange(count) for count in counts], np.int32),
        box=_concatenate([record.boxes.ravel() for record in records], np.float32).reshape(-1, 4),
        area=_concatenate([record.areas for record in records], np.float64),
        crowd=_concatenate([record.crowd for record in records], np.bool_),
    )
    return Objects(*(column[order] for column in columns))


def _found(index: Index, results: Mapping[int, Detections]) -> tuple[Found, np.ndarray]:
    """Detections by label, image and descending score, and the rank of each among those of its class and image."""
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    ordered = [results.get(record.image_id, nothing) for record in index.images]
    counts = [len(detections) for detections in ordered]
    box = _concatenate([detections.boxes.ravel() for detections in ordered], np.float32).reshape(-1, 4)
    columns = Found(
        image=np.repeat(np.arange(len(ordered), dtype=np.int32), counts),
        label=_concatenate([detections.labels for detections in ordered], np.int32),
        row=_concatenate([np.arange(count) for count in counts], np.int32),
        box=box,
        area=(box[:, 2:].astype(np.float64) - box[:, :2]).prod(axis=1),
        score=_concatenate([detections.scores for detections in ordered], np.float32),
    )
    order = np.lexsort((-columns.score, columns.image, columns.label))  # stable
    columns = Found(*(column[order] for column in columns))
    starts = np.flatnonzero(np.diff(_keys(columns, len(ordered)), prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return columns, rank


def _keys(columns: Objects | Found, images: int) -> np.ndarray:
    """A number for each pair of a class and an image, ascending in the order of the rows."""
    return columns.label.astype(np.int64) * images + columns.image


def _pairs(found: Found, objects: Objects, images: int) -> Iterator[tuple[slice, slice]]:
    """The rows of detections and of objects for each class and image that has both."""
    keys, own = _keys(found, images), _keys(objects, images)
    both = np.intersect1d(keys, own)
    limits = [np.searchsorted(rows, both, side=side).tolist() for rows in (keys, own) for side in ("left", "right")]
    for first, end, first_object, end_object in zip(*limits, strict=True):
        yield slice(first, end), slice(first_object, end_object)


def _xywh(boxes: np.ndarray) -> np.ndarray:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _concatenate(arrays: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
