"""AP, precision and recall of many resamples of the images, from matches that were made once.

An image that a resample holds n times counts n times: its detections and objects have the weight n. This is the COCO
metric of the resampled images, because which detections match depends on the image alone. Copies of an image are
neighbors in the order of equal scores, which COCO leaves open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from frcnn.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, Matches

RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO samples the precision
_NEXT_RECALL = np.append(RECALLS[1:], np.inf)
RESAMPLES = 1000
CONFIDENCE = 0.95
NUMBERS_AT_ONCE = 500_000  # of resamples that are computed together: they fit into the processor's cache

_ALL, _SMALL, _MEDIUM, _LARGE = range(len(AREA_RANGES))
# Metrics by COCO's names: the measure, the IoU thresholds, and the area range.
METRICS: dict[str, tuple[str, slice, int]] = {
    "AP": ("precision", slice(None), _ALL),
    "AP50": ("precision", slice(0, 1), _ALL),
    "AP75": ("precision", slice(5, 6), _ALL),
    "APs": ("precision", slice(None), _SMALL),
    "APm": ("precision", slice(None), _MEDIUM),
    "APl": ("precision", slice(None), _LARGE),
    "AR100": ("recall", slice(None), _ALL),
}


class WeightedResult(NamedTuple):
    """AP and final recall of ``B`` resamples.

    Attributes:
        precision: ``[B, K, T, A]`` AP by class, IoU threshold and area range; NaN where no object counts.
        recall: ``[B, K, T, A]`` recall of all detections.
    """

    precision: np.ndarray
    recall: np.ndarray

    def metrics(self) -> dict[str, np.ndarray]:
        """``[B]`` values of each of ``METRICS``; NaN if no object contributes."""
        values = self._asdict()
        return {
            name: _mean(values[measure][:, :, thresholds, area], (1, 2))
            for name, (measure, thresholds, area) in METRICS.items()
        }

    def class_ap(self) -> np.ndarray:
        """``[B, K]`` AP over IoU 0.50:0.95 of each class."""
        return _mean(self.precision[..., _ALL], (2,))


def evaluate_weighted(
    matches: Matches, weights: np.ndarray, progress: Callable[[], None] = lambda: None
) -> WeightedResult:
    """AP and recall if image ``i`` occurs ``weights[b, i]`` times, for each resample b.

    Args:
        weights: ``[B, I]`` integers; all ones for the images as they are.
        progress: called now and then.
    """
    classes, shape = len(matches.class_names), (len(IOU_THRESHOLDS), len(AREA_RANGES))
    precision = np.full((len(weights), classes, *shape), np.nan)
    recall = np.full_like(precision, np.nan)
    largest = np.bincount(matches.found.label, minlength=1).max(initial=1)
    step = int(max(1, NUMBERS_AT_ONCE // max(largest, matches.images)))
    for first in range(0, len(weights), step):
        part = slice(first, first + step)
        columns = np.ascontiguousarray(weights[part].T)
        for label in range(1, classes + 1):
            progress()
            values = _one_class(matches, label, columns)
            precision[part, label - 1], recall[part, label - 1] = (np.moveaxis(value, -1, 0) for value in values)
    return WeightedResult(precision, recall)


def precision_recall(matches: Matches, minimum: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall ``[B]`` at IoU 0.5 of the detections above their class's minimum score, of all classes.

    Args:
        minimum: ``[K]`` scores.
        weights: as for :func:`evaluate_weighted`.

    Returns:
        NaN where nothing is detected, or no object counts.
    """
    found = matches.found
    # Scores are float32, and are compared as such.
    kept = (found.score >= minimum.astype(np.float32)[found.label - 1]) & ~matches.ignored[0, _ALL]
    rows = (found.image[kept & matches.matched[0, _ALL]], found.image[kept])
    counted = matches.objects.image[~matches.object_ignored[_ALL]]
    per_image = np.stack([np.bincount(images, minlength=matches.images) for images in (*rows, counted)], axis=1)
    correct, detected, objects = (weights.astype(np.int64) @ per_image).T
    return _share(correct, detected), _share(correct, objects)


def resample_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each image occurs in resamples of as many images, drawn with replacement: ``[B, I]`` int32."""
    draws = np.random.default_rng(seed).integers(0, max(images, 1), (resamples, images))
    rows = np.arange(resamples)[:, None] * images
    return np.bincount((rows + draws).ravel(), minlength=resamples * images).reshape(resamples, images).astype(np.int32)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of ``[B]`` values (Efron 1979), NaN left out; (NaN, NaN) if nothing is left."""
    known = values[np.isfinite(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    known = np.isfinite(values)
    number = known.sum(axis=axes)
    return np.where(number, np.where(known, values, 0.0).sum(axis=axes) / np.maximum(number, 1), np.nan)


def _one_class(matches: Matches, label: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and recall ``[T, A, B]`` of a class.

    Args:
        weights: ``[I, B]``: rows of resamples, so that those of an image are neighbors in memory.
    """
    rows, own = matches.of_label(label), matches.objects_of_label(label)
    counted = (~matches.object_ignored[:, own]).astype(np.float64)
    objects = counted @ weights[matches.objects.image[own]]  # [A, B]
    weight = weights[matches.found.image[rows]]
    matched, ignored = matches.matched[..., rows], matches.ignored[..., rows]
    precision = np.full((*matched.shape[:2], weights.shape[1]), np.nan)
    recall = np.full_like(precision, np.nan)
    for area in range(matched.shape[1]):
        if not objects[area].any():
            continue
        true, false = matched[:, area] & ~ignored[:, area], ~matched[:, area] & ~ignored[:, area]
        # Most false positives are false at every threshold: they are summed once.
        always = false.all(axis=0)
        before = _counter(weight, always)
        for threshold in range(len(true)):
            positives = np.flatnonzero(true[threshold])
            extra = _counter(weight, false[threshold] & ~always)
            precision[threshold, area], recall[threshold, area] = _average_precision(
                np.cumsum(weight[positives], axis=0), before(positives) + extra(positives), objects[area]
            )
    return precision, recall


def _counter(weight: np.ndarray, chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that sums the weights of the chosen detections before each of some positions: ``[P, B]``."""
    positions = np.flatnonzero(chosen)
    sums = np.zeros((len(positions) + 1, weight.shape[1]), np.int64)
    np.cumsum(weight[positions], axis=0, out=sums[1:])
    return lambda places: sums[np.searchsorted(positions, places)]


def _average_precision(true: np.ndarray, false: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and recall ``[B]`` from cumulative counts ``[P, B]`` at the true positives, by descending score.

    The precision changes for the better at true positives only, so that these are all that the interpolated curve
    needs.
    """
    undefined = objects == 0
    if not len(true):
        zero = np.where(undefined, np.nan, 0.0)
        return zero, zero
    precision = true / (true + false + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = true / np.maximum(objects, 1)
    # Of the 101 recalls, how many each true positive is the first to reach.
    reached = np.diff(_recalls_reached(recall), axis=0, prepend=0)
    ap = np.einsum("pb,pb->b", envelope, reached) / len(RECALLS)
    return np.where(undefined, np.nan, ap), np.where(undefined, np.nan, recall[-1])


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of ``RECALLS`` are at most each value in 0..1: ``np.searchsorted(RECALLS, recall, "right")``, faster."""
    level = (recall * (len(RECALLS) - 1)).astype(np.int64)
    # The product is rounded, and so are RECALLS: the level may be off by one.
    level += _NEXT_RECALL[level] <= recall
    level -= RECALLS[level] > recall
    return level + 1
