"""Precision, recall and F1 over the score, and the score thresholds that follow from them.

Counted at IoU 0.5 with COCO's matching: a detection that matches a crowd region counts neither way.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import numpy as np

from frcnn import __version__
from frcnn.data.coco import Index
from frcnn.evaluation.bootstrap import RECALLS
from frcnn.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, Matches
from frcnn.tiling import Tiling

ALL_AREAS = list(AREA_RANGES).index("all")
DECIMALS = range(2, 8)  # of a stored threshold: the fewest that keep the same detections


class ScoreCurve(NamedTuple):
    """Results of keeping the detections of at least a score, for each score that occurs.

    Attributes:
        score: ``[S]`` float64, descending, without duplicates.
        precision: ``[S]`` correct detections among those that are kept.
        recall: ``[S]`` objects found; NaN without objects.
        objects: number of objects.
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    objects: int

    @property
    def f1(self) -> np.ndarray:
        """``[S]`` harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)


class ScoreCounts(NamedTuple):
    """Detections of at least each of some scores, at IoU 0.5.

    Attributes:
        correct: ``[S]`` int64; detections that match an object.
        wrong: ``[S]`` int64; the others that count.
        objects: number of objects.
    """

    correct: np.ndarray
    wrong: np.ndarray
    objects: int


class Goal(NamedTuple):
    """What a threshold is chosen for: the best F1, or a minimum precision or recall."""

    kind: Literal["F1", "precision", "recall"] = "F1"
    minimum: float = 0.0

    def __str__(self) -> str:
        return "maximum F1" if self.kind == "F1" else f"{self.kind} of at least {self.minimum:g}"


BEST_F1 = Goal()


class OperatingPoint(NamedTuple):
    """A score threshold and what it achieves on the split that it was chosen on.

    Attributes:
        met: whether the goal is reached; otherwise this is the point that comes closest.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    objects: int
    met: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
            "f1": round(self.f1, 4),
            "objects": self.objects,
            "goal_met": self.met,
        }


def score_curve(matches: Matches, label: int | None = None, iou_threshold: int = 0) -> ScoreCurve:
    """The curve of a class, or of the detections of all classes together.

    Args:
        label: 1..K; None for all classes.
        iou_threshold: position in ``IOU_THRESHOLDS``.
    """
    score, correct, objects = _by_score(matches, label, iou_threshold)
    true = np.cumsum(correct)
    last = np.flatnonzero(np.diff(score, append=-1.0))  # of detections with equal scores
    kept = last + 1.0
    recall = true[last] / objects if objects else np.full(len(last), np.nan)
    return ScoreCurve(score[last], true[last] / kept, recall, objects)


def count_at_scores(matches: Matches, scores: np.ndarray, label: int | None = None) -> ScoreCounts:
    """Counts of a class, or of all classes together, at IoU 0.5 for each of some minimum scores ``[S]``."""
    score, correct, objects = _by_score(matches, label, 0)
    # Scores are float32, and are compared as such.
    kept = np.searchsorted(-score, -scores.astype(np.float32).astype(np.float64), side="right")
    true = np.concatenate([[0], np.cumsum(correct)])[kept]
    return ScoreCounts(true, kept - true, objects)


def choose_point(curve: ScoreCurve, goal: Goal) -> OperatingPoint | None:
    """The threshold that reaches a goal best; None for a class without objects or without a correct detection.

    A minimum precision is met with the largest possible recall, and a minimum recall with the largest precision.
    """
    if not curve.objects or not curve.recall.any():
        return None
    first = {"F1": curve.f1, "precision": curve.precision, "recall": curve.recall}[goal.kind]
    other = {"F1": curve.score, "precision": curve.recall, "recall": curve.precision}[goal.kind]
    enough = first >= (goal.minimum if goal.kind != "F1" else first.max())
    met = bool(enough.any())
    if not met:
        enough = first == first.max()
    candidates = np.flatnonzero(enough)
    best = int(candidates[np.argmax(other[candidates])])
    next_lower = curve.score[best + 1] if best + 1 < len(curve.score) else 0.0
    return OperatingPoint(
        _short(curve.score[best], next_lower),
        float(curve.precision[best]),
        float(curve.recall[best]),
        float(curve.f1[best]),
        curve.objects,
        met,
    )


def macro_f1(matches: Matches) -> float:
    """The mean of the classes' best F1 over the score, each at its own threshold; NaN without objects."""
    curves = [score_curve(matches, label) for label in range(1, len(matches.class_names) + 1)]
    best = [curve.f1.max(initial=0.0) for curve in curves if curve.objects]
    return float(np.mean(best)) if best else math.nan


def thresholds_document(
    matches: Matches,
    index: Index,
    split: str,
    goal: Goal = BEST_F1,
    tiling: Tiling | None = None,
    test: str | None = None,
) -> dict[str, Any] | None:
    """The content of ``thresholds.json``: the thresholds of each class and overall, and how they were chosen.

    Args:
        index: the split that was matched.
        split: its name.
        tiling: the tiles of the detections; None: whole images.
        test: options of the group ``test`` that differed from the model's.

    Returns:
        A class in which nothing can be chosen is null, and has the overall threshold. None if there is no correct
        detection at all.
    """
    overall = choose_point(score_curve(matches), goal)
    if overall is None:
        return None
    points = [choose_point(score_curve(matches, label), goal) for label in range(1, len(matches.class_names) + 1)]
    classes = {
        name: point.to_json() if point else None for name, point in zip(matches.class_names, points, strict=True)
    }
    iou = float(IOU_THRESHOLDS[0])
    return {
        "goal": str(goal),
        "iou": iou,
        "overall": overall.to_json(),
        "classes": classes,
        "split": split,
        "data": index.fingerprint,
        "images": matches.images,
        "tiling": asdict(tiling) if tiling else None,
        "test": test,
        "frcnn": __version__,
    }


def precision_at_recalls(matches: Matches, label: int, iou_threshold: int) -> np.ndarray | None:
    """Interpolated precision ``[101]`` at COCO's recalls, the curve whose mean is the AP; None without objects."""
    own = matches.objects_of_label(label)
    objects = int((~matches.object_ignored[ALL_AREAS, own]).sum())
    if not objects:
        return None
    rows = matches.of_label(label)
    matched, ignored = (flags[iou_threshold, ALL_AREAS, rows] for flags in (matches.matched, matches.ignored))
    true = np.cumsum(matched & ~ignored)
    false = np.cumsum(~matched & ~ignored)
    envelope = np.maximum.accumulate((true / (true + false + np.spacing(1)))[::-1])[::-1]
    places = np.searchsorted(true / objects, RECALLS, side="left")
    return np.append(envelope, 0.0)[places]


def _by_score(matches: Matches, label: int | None, iou_threshold: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Descending scores ``[N]`` float64 of the detections that count, which are correct, and the number of objects."""
    rows = slice(None) if label is None else matches.of_label(label)
    own = slice(None) if label is None else matches.objects_of_label(label)
    objects = int((~matches.object_ignored[ALL_AREAS, own]).sum())
    counted = ~matches.ignored[iou_threshold, ALL_AREAS, rows]
    score = matches.found.score[rows][counted].astype(np.float64)
    correct = matches.matched[iou_threshold, ALL_AREAS, rows][counted]
    order = np.argsort(-score, kind="stable")
    return score[order], correct[order], objects


def _short(score: float, next_lower: float) -> float:
    """A threshold with few decimals that keeps ``score`` and not ``next_lower``; at worst the score itself."""
    for decimals in DECIMALS:
        rounded = math.floor(score * 10**decimals) / 10**decimals
        # Scores are float32, and are compared as such.
        if next_lower < np.float32(rounded) <= score:
            return rounded
    return float(score)
