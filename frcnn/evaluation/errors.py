"""What is wrong with detections: six kinds of errors and what each costs, after TIDE.

Bolya, Foley, Hays, Hoffman: TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020. A detection is
judged at IoU 0.5; below 0.1 it is on the background. The cost of a kind is the gain of AP50 if an oracle corrected all
errors of this kind and no other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pycocotools import mask

from frcnn.evaluation.bootstrap import RECALLS
from frcnn.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, SIZES, Matches

FOREGROUND_IOU = float(IOU_THRESHOLDS[0])
BACKGROUND_IOU = 0.1

ERRORS = {
    "class": "an object is found, but has another class",
    "localization": "the class is right, but the box overlaps the object by less than IoU 0.5",
    "both": "wrong class and inaccurate box",
    "duplicate": "the object is found already, with a higher score",
    "background": "there is no object",
    "missed": "no detection finds the object, not even with another class or an inaccurate box",
}
CLASS, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(ERRORS))
NO_ERROR = -1


class Errors(NamedTuple):
    """The error of each detection and object.

    Attributes:
        kind: ``[N]`` position in ``ERRORS``, by row of ``Matches.found``; -1 for correct and ignored detections.
        target: ``[N]`` the object that an error is about, by row of ``Matches.objects``; -1 for none.
        iou: ``[N]`` IoU with the target; 0 for none.
        missed: ``[M]`` bool: objects that no detection finds and no correction could.
        size: ``[N]`` position in ``SIZES`` of the target, or of the detection itself.
        object_size: ``[M]`` the same of the objects.
    """

    kind: np.ndarray
    target: np.ndarray
    iou: np.ndarray
    missed: np.ndarray
    size: np.ndarray
    object_size: np.ndarray


class ErrorCosts(NamedTuple):
    """Numbers of errors, and the AP50 that they cost.

    Attributes:
        ap50: AP50 as it is.
        counts: ``[E, K, S]`` number of errors by kind, class (of the detection, or the missed object) and size.
        cost: ``[E]`` gain of AP50 without the errors of a kind.
        class_cost: ``[E, K]`` gain of the AP50 of each class; NaN for a class without objects.
        size_cost: ``[E, S]`` gain of AP50 without the errors of a kind on objects of one size.
    """

    ap50: float
    counts: np.ndarray
    cost: np.ndarray
    class_cost: np.ndarray
    size_cost: np.ndarray


def classify_errors(matches: Matches) -> Errors:
    """Assign each false positive its kind of error, and find the objects that are missed."""
    found, objects = matches.found, matches.objects
    number = len(found.score)
    kind, target = np.full(number, NO_ERROR, np.int8), np.full(number, -1, np.int32)
    overlap = np.zeros(number, np.float64)
    used = np.zeros(len(objects.label), bool)
    used[matches.partner[matches.partner >= 0]] = True
    wrong = np.flatnonzero(~matches.matched[0, 0] & ~matches.ignored[0, 0])
    kind[wrong] = BACKGROUND
    for rows, own in _by_image(matches, wrong, np.flatnonzero(~objects.crowd)):
        ious = _ious(found.box[rows], objects.box[own])
        same = found.label[rows][:, None] == objects.label[own]
        kind[rows], columns = _kinds(ious, same, used[own])
        overlap[rows] = ious[np.arange(len(rows)), columns]
        target[rows] = np.where(overlap[rows] > 0, own[columns], -1)
    missed = ~used & ~objects.crowd
    missed[target[(kind == CLASS) | (kind == LOCALIZATION)]] = False
    object_size = _sizes(objects.area)
    size = np.where(target >= 0, object_size[target], _sizes(found.area)) if len(object_size) else _sizes(found.area)
    return Errors(kind, target, overlap, missed, size, object_size)


def error_costs(matches: Matches, errors: Errors) -> ErrorCosts:
    """Count the errors, and compute AP50 after the correction of each kind, per class and per size.

    The oracle gives a detection its object's class or box, if the object is not found yet; of several errors about one
    object the one with the highest score. It removes every other false positive of the kind, and missed objects. A
    class all of whose objects are missed keeps its AP of 0.
    """
    classes, kinds, sizes = len(matches.class_names), len(ERRORS), len(SIZES)
    counts = np.zeros((kinds, classes, sizes), np.int64)
    wrong = errors.kind != NO_ERROR
    np.add.at(counts, (errors.kind[wrong], matches.found.label[wrong] - 1, errors.size[wrong]), 1)
    missed = errors.missed
    np.add.at(counts, (MISSED, matches.objects.label[missed] - 1, errors.object_size[missed]), 1)
    before = _ap50(matches, errors, NO_ERROR, None)
    class_cost = np.stack([_ap50(matches, errors, kind, None) - before for kind in range(kinds)])
    by_size = [[_ap50(matches, errors, kind, size) for size in range(sizes)] for kind in range(kinds)]
    defined = np.isfinite(before)
    if not defined.any():
        return ErrorCosts(float("nan"), counts, np.full(kinds, np.nan), class_cost, np.full((kinds, sizes), np.nan))
    return ErrorCosts(
        ap50=float(before[defined].mean()),
        counts=counts,
        cost=class_cost[:, defined].mean(axis=1),
        class_cost=class_cost,
        size_cost=(np.array(by_size) - before)[..., defined].mean(axis=2),
    )


def confusion_matrix(matches: Matches, minimum: np.ndarray) -> np.ndarray:
    """Objects and detections of at least a score by their classes: ``[K + 1, K + 1]``, row 0 and column 0 background.

    Row: class of the object; column: class of the detection. Detections match objects of their own class by COCO's
    rules, then the rest those of other classes, by descending score, at IoU 0.5. Entry (k, 0) counts objects of class
    k without a detection, entry (0, k) detections without an object; (0, 0) is 0.

    Args:
        minimum: ``[K]`` minimum score of each class.
    """
    found, objects = matches.found, matches.objects
    kept = (found.score >= minimum.astype(np.float32)[found.label - 1]) & ~matches.ignored[0, 0]
    correct = np.flatnonzero(kept & (matches.partner >= 0))
    left = ~objects.crowd
    left[matches.partner[correct]] = False
    matrix = np.zeros((len(minimum) + 1,) * 2, np.int64)
    np.add.at(matrix, (found.label[correct], found.label[correct]), 1)
    others = np.flatnonzero(kept & (matches.partner < 0))
    matrix[0] += np.bincount(found.label[others], minlength=len(matrix))
    for rows, own in _by_image(matches, others, np.flatnonzero(left)):
        ious = _ious(found.box[rows], objects.box[own])
        for row in np.argsort(-found.score[rows], kind="stable"):
            column = int(ious[row].argmax())
            if ious[row, column] >= FOREGROUND_IOU:
                ious[:, column] = -1
                left[own[column]] = False
                matrix[0, found.label[rows[row]]] -= 1
                matrix[objects.label[own[column]], found.label[rows[row]]] += 1
    np.add.at(matrix, (objects.label[left], 0), 1)
    return matrix


def _kinds(ious: np.ndarray, same: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kind of error ``[D]`` of the false positives of an image, and the column of the object that each is about.

    Args:
        ious: ``[D, G]``.
        same: ``[D, G]`` whether detection and object have the same class.
        used: ``[G]`` objects that are found.
    """
    rows = np.arange(len(ious))
    own, other, taken = np.where(same, ious, -1.0), np.where(same, -1.0, ious), np.where(same & used, ious, -1.0)
    best_own, best_other, best_taken, best = (table.argmax(axis=1) for table in (own, other, taken, ious))
    own_iou, any_iou = own[rows, best_own], ious[rows, best]
    conditions = {
        LOCALIZATION: ((own_iou >= BACKGROUND_IOU) & (own_iou < FOREGROUND_IOU), best_own),
        CLASS: (other[rows, best_other] >= FOREGROUND_IOU, best_other),
        DUPLICATE: (taken[rows, best_taken] >= FOREGROUND_IOU, best_taken),
        BACKGROUND: (any_iou < BACKGROUND_IOU, best),
    }
    cases = [condition for condition, _ in conditions.values()]
    columns = [column for _, column in conditions.values()]
    return np.select(cases, list(conditions), BOTH), np.select(cases, columns, best)


def _ap50(matches: Matches, errors: Errors, fixed: int, size: int | None) -> np.ndarray:
    """AP50 ``[K]`` after the errors of a kind are corrected, perhaps only those on objects of one size."""
    found, objects = matches.found, matches.objects
    label = found.label.copy()
    correct, kept = matches.matched[0, 0].copy(), ~matches.ignored[0, 0]
    counts = np.bincount(objects.label[~objects.crowd], minlength=len(matches.class_names) + 1)[1:]
    removed = np.zeros_like(counts)
    chosen = np.flatnonzero((errors.kind == fixed) & ((size is None) | (errors.size == size)) & (fixed != NO_ERROR))
    if fixed in (CLASS, LOCALIZATION):
        chosen = chosen[np.argsort(-found.score[chosen], kind="stable")]
        used = np.zeros(len(objects.label), bool)
        used[matches.partner[matches.partner >= 0]] = True
        targets, first = np.unique(errors.target[chosen], return_index=True)
        corrected = chosen[first[~used[targets]]]
        kept[chosen] = False
        kept[corrected] = correct[corrected] = True
        label[corrected] = objects.label[errors.target[corrected]]
    elif fixed == MISSED:
        gone = errors.missed & ((size is None) | (errors.object_size == size))
        removed = np.bincount(objects.label[gone], minlength=len(counts) + 1)[1:]
    else:
        kept[chosen] = False
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-found.score[order], label[order]))]
    limits = np.searchsorted(label[order], np.arange(1, len(counts) + 2))
    return np.array(
        [
            _average_precision(correct[order[limits[k] : limits[k + 1]]], counts[k] - removed[k])
            if counts[k]
            else np.nan
            for k in range(len(counts))
        ]
    )


def _average_precision(correct: np.ndarray, objects: int) -> float:
    """AP of detections by descending score."""
    if not objects or not correct.any():
        return 0.0
    true = np.cumsum(correct)
    precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
    places = np.searchsorted(true / objects, RECALLS, side="left")
    return float(np.append(precision, 0.0)[places].mean())


def _by_image(matches: Matches, rows: np.ndarray, own: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some detections and objects, by image, for the images that have both; within an image in their order."""
    of_row, of_own = matches.found.image[rows], matches.objects.image[own]
    rows, own = rows[np.argsort(of_row, kind="stable")], own[np.argsort(of_own, kind="stable")]
    images = np.intersect1d(of_row, of_own)
    limits = [
        np.searchsorted(column, images, side=side)
        for column in (np.sort(of_row), np.sort(of_own))
        for side in ("left", "right")
    ]
    return [(rows[a:b], own[c:d]) for a, b, c, d in zip(*limits, strict=True)]


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = [
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.float64)
        for corners in (boxes.astype(np.float64), others.astype(np.float64))
    ]
    return mask.iou(*sides, np.zeros(len(others), np.uint8))


def _sizes(areas: np.ndarray) -> np.ndarray:
    """Position in ``SIZES``."""
    return np.searchsorted([AREA_RANGES[name][1] for name in SIZES[:-1]], areas)
