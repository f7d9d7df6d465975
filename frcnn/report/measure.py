"""The numbers of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.coco import Index
from frcnn.evaluation.bootstrap import METRICS, evaluate_weighted, interval, precision_recall, resample_weights
from frcnn.evaluation.errors import (
    ErrorCosts,
    Errors,
    classify_errors,
    confusion_matrix,
    error_costs,
)
from frcnn.evaluation.matching import Matches, match_detections
from frcnn.evaluation.thresholds import (
    BEST_F1,
    OperatingPoint,
    ScoreCurve,
    choose_point,
    precision_at_recalls,
    score_curve,
)
from frcnn.inference import Detections
from frcnn.weights.score_thresholds import ScoreThresholds

SHOWN_IOUS = {"IoU 0.5": 0, "IoU 0.75": 5}  # of precision-recall curves: position in IOU_THRESHOLDS


class Estimate(NamedTuple):
    """A value with its 95 % interval over resampled images; NaN where undefined."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float | None]:
        return [None if np.isnan(number) else round(float(number), 6) for number in self]


class Curves(NamedTuple):
    """Curves of one class or of all.

    Attributes:
        score: precision and recall over the score, at IoU 0.5.
        recall: interpolated precision ``[101]`` over the recall by the names of ``SHOWN_IOUS``; for all classes the
            mean over those with objects.
        point: precision, recall and F1 at the class's score threshold; None without detections of it.
    """

    score: ScoreCurve
    recall: dict[str, np.ndarray]
    point: OperatingPoint | None


class Comparison(NamedTuple):
    """Metrics of another model on the same images, and differences with intervals from the same resamples."""

    name: str
    values: dict[str, Estimate]
    differences: dict[str, Estimate]


class Measured(NamedTuple):
    """Everything that a report shows about a model.

    Attributes:
        metrics: by the names of ``METRICS``.
        class_ap: AP over IoU 0.50:0.95 by class name.
        at_thresholds: precision and recall of all classes together at the score thresholds and IoU 0.5.
        overall: curves of all classes together.
        classes: curves by class name.
        minimum: ``[K]`` score thresholds in use.
        confusion: ``[K + 1, K + 1]`` at these thresholds, see :func:`frcnn.evaluation.errors.confusion_matrix`.
    """

    matches: Matches
    metrics: dict[str, Estimate]
    class_ap: dict[str, Estimate]
    at_thresholds: dict[str, Estimate]
    overall: Curves
    classes: dict[str, Curves]
    minimum: np.ndarray
    confusion: np.ndarray
    errors: Errors
    costs: ErrorCosts
    comparison: Comparison | None


def measure(
    index: Index,
    results: Mapping[int, Detections],
    thresholds: ScoreThresholds | None,
    against: tuple[str, Mapping[int, Detections]] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Measured:
    """Compute the numbers of a report.

    Args:
        results: detections by image id.
        thresholds: the model's; None for those with the best F1 on this split.
        against: name and detections of a model to compare with.
        progress: called now and then.
    """
    matches = match_detections(index, results, progress)
    weights = np.concatenate([np.ones((1, matches.images), np.int32), resample_weights(matches.images)])
    weighted = evaluate_weighted(matches, weights, progress)
    samples, class_samples = weighted.metrics(), weighted.class_ap()
    names = matches.class_names
    minimum = np.array(list(thresholds.by_class.values())) if thresholds else _best_f1(matches)
    precision, recall = precision_recall(matches, minimum, weights)
    errors = classify_errors(matches)
    progress()
    classes = {name: _curves(matches, label, minimum[label - 1]) for label, name in enumerate(names, start=1)}
    comparison = None
    if against:
        other = evaluate_weighted(match_detections(index, against[1], progress), weights, progress).metrics()
        comparison = Comparison(
            against[0],
            {name: _estimate(other[name]) for name in METRICS},
            {name: _estimate(samples[name] - other[name]) for name in METRICS},
        )
    return Measured(
        matches=matches,
        metrics={name: _estimate(samples[name]) for name in METRICS},
        class_ap={name: _estimate(class_samples[:, k]) for k, name in enumerate(names)},
        at_thresholds={"precision": _estimate(precision), "recall": _estimate(recall)},
        overall=_overall_curves(matches, classes, float(precision[0]), float(recall[0])),
        classes=classes,
        minimum=minimum,
        confusion=confusion_matrix(matches, minimum),
        errors=errors,
        costs=error_costs(matches, errors),
        comparison=comparison,
    )


def to_json(measured: Measured) -> dict[str, Any]:
    """The numbers for programs: values with the limits of their intervals."""

    def point(curves: Curves) -> dict[str, Any] | None:
        if curves.point is None:
            return None
        values = curves.point._asdict()
        del values["met"]
        return {name: None if np.isnan(value) else round(value, 6) for name, value in values.items()}

    costs = measured.costs
    document: dict[str, Any] = {
        "metrics": {name: value.to_json() for name, value in measured.metrics.items()},
        "class_AP": {name: value.to_json() for name, value in measured.class_ap.items()},
        "at_threshold": point(measured.overall),
        "at_threshold_interval": {name: value.to_json() for name, value in measured.at_thresholds.items()},
        "class_at_threshold": {name: point(curves) for name, curves in measured.classes.items()},
        "confusion": measured.confusion.tolist(),
        "error_counts": costs.counts.sum(axis=(1, 2)).tolist(),
        "error_costs": [None if np.isnan(cost) else round(float(cost), 6) for cost in costs.cost],
    }
    if measured.comparison:
        document["against"] = {
            "model": measured.comparison.name,
            "metrics": {name: value.to_json() for name, value in measured.comparison.values.items()},
            "difference": {name: value.to_json() for name, value in measured.comparison.differences.items()},
        }
    return document


def _estimate(samples: np.ndarray) -> Estimate:
    """The first sample is that of all images once; the others are resamples."""
    return Estimate(float(samples[0]), *interval(samples[1:]))


def _best_f1(matches: Matches) -> np.ndarray:
    overall = choose_point(score_curve(matches), BEST_F1)
    default = overall.threshold if overall else 0.5
    points = [choose_point(score_curve(matches, label), BEST_F1) for label in range(1, len(matches.class_names) + 1)]
    return np.array([point.threshold if point else default for point in points])


def _curves(matches: Matches, label: int, minimum: float) -> Curves:
    curve = score_curve(matches, label)
    by_recall = {
        name: values
        for name, position in SHOWN_IOUS.items()
        if (values := precision_at_recalls(matches, label, position)) is not None
    }
    kept = int((curve.score >= np.float32(minimum)).sum()) - 1
    point = None
    if kept >= 0 and curve.objects:
        precision, recall, f1 = (float(column[kept]) for column in (curve.precision, curve.recall, curve.f1))
        point = OperatingPoint(float(minimum), precision, recall, f1, curve.objects, True)
    return Curves(curve, by_recall, point)


def _overall_curves(matches: Matches, classes: Mapping[str, Curves], precision: float, recall: float) -> Curves:
    """Curves of all classes together; their precision and recall are those at the thresholds of the classes."""
    by_recall = {}
    for name in SHOWN_IOUS:
        known = [curves.recall[name] for curves in classes.values() if name in curves.recall]
        if known:
            by_recall[name] = np.mean(known, axis=0)
    curve = score_curve(matches)
    point = None
    if not np.isnan([precision, recall]).any():
        f1 = 2 * precision * recall / (precision + recall) if recall else 0.0
        point = OperatingPoint(float("nan"), precision, recall, f1, curve.objects, True)
    return Curves(curve, by_recall, point)
