"""Kinds of errors, their costs and the confusion matrix of a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from detected_cases import IndexMaker, detections, random_case

from frcnn.evaluation.bootstrap import evaluate_weighted
from frcnn.evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASS,
    DUPLICATE,
    ERRORS,
    LOCALIZATION,
    MISSED,
    NO_ERROR,
    Errors,
    classify_errors,
    confusion_matrix,
    error_costs,
)
from frcnn.evaluation.matching import Matches, match_detections

# Objects 0 to 3 of class a, and object 4 of class b; object 3 is small.
OBJECTS = [
    (0, "a", [0, 0, 40, 40]),
    (0, "a", [50, 0, 40, 40]),
    (0, "a", [100, 0, 40, 40]),
    (0, "a", [150, 0, 30, 30]),
    (0, "b", [0, 100, 100, 100]),
]
# One detection of each kind of error, and what it is about.
DETECTED = [
    (([0, 0, 40, 40], 0.9, 1), NO_ERROR, 0),
    (([0, 0, 40, 36], 0.8, 1), DUPLICATE, 0),
    (([50, 0, 90, 40], 0.7, 2), CLASS, 1),  # class b on an object of class a
    (([100, 0, 140, 16], 0.6, 1), LOCALIZATION, 2),  # IoU 0.4
    (([0, 100, 100, 130], 0.5, 1), BOTH, 4),  # IoU 0.3 with class b
    (([110, 60, 190, 95], 0.4, 1), BACKGROUND, None),
    (([0, 100, 100, 190], 0.3, 2), NO_ERROR, 4),
]


def worked_case(make_index: IndexMaker) -> tuple[Matches, Errors]:
    matches = match_detections(make_index(OBJECTS), {10: detections(*(row for row, _, _ in DETECTED))})
    return matches, classify_errors(matches)


def test_kinds_of_errors(make_index: IndexMaker) -> None:
    matches, errors = worked_case(make_index)
    by_row = np.argsort(matches.found.row)
    assert errors.kind[by_row].tolist() == [kind for _, kind, _ in DETECTED]
    for row, (_, kind, about) in enumerate(DETECTED):
        target = errors.target[by_row[row]]
        if kind != NO_ERROR:
            assert (matches.objects.row[target] if target >= 0 else None) == about
    assert matches.objects.row[errors.missed].tolist() == [3]
    np.testing.assert_allclose(errors.iou[by_row], [0, 0.9, 1, 0.4, 0.3, 0, 0], atol=1e-6)


def ap(correct: list[int], objects: int) -> float:
    """AP by its definition: the mean of the best precision at a recall of at least 0, 0.01 … 1."""
    points = [(sum(correct[: n + 1]) / objects, sum(correct[: n + 1]) / (n + 1)) for n in range(len(correct))]
    return float(np.mean([max((p for r, p in points if r >= level / 100), default=0.0) for level in range(101)]))


def test_costs_of_errors(make_index: IndexMaker) -> None:
    """By score, class a: correct, duplicate, localization, both, background, of 4 objects; class b: class, correct."""
    costs = error_costs(*worked_case(make_index))
    a, b = ap([1, 0, 0, 0, 0], 4), ap([0, 1], 1)
    assert costs.ap50 == pytest.approx((a + b) / 2)
    corrected = {
        CLASS: (ap([1, 0, 1, 0, 0, 0], 4), ap([1], 1)),  # becomes one of class a, with its score of 0.7
        LOCALIZATION: (ap([1, 0, 1, 0, 0], 4), b),
        BOTH: (ap([1, 0, 0, 0], 4), b),
        DUPLICATE: (ap([1, 0, 0, 0], 4), b),
        BACKGROUND: (ap([1, 0, 0, 0], 4), b),
        MISSED: (ap([1, 0, 0, 0, 0], 3), b),
    }
    for kind, (fixed_a, fixed_b) in corrected.items():
        np.testing.assert_allclose(costs.class_cost[kind], [fixed_a - a, fixed_b - b], atol=1e-12)
        assert costs.cost[kind] == pytest.approx((fixed_a + fixed_b - a - b) / 2)
    # One error of each kind; the missed object is small (30 x 30), the both-error is on a large one.
    assert costs.counts.sum(axis=(1, 2)).tolist() == [1] * len(ERRORS)
    assert costs.counts[MISSED, 0].tolist() == [1, 0, 0]
    assert costs.counts[BOTH, 0].tolist() == [0, 0, 1]
    assert costs.counts[CLASS, 1].tolist() == [0, 1, 0]
    np.testing.assert_allclose(costs.size_cost[MISSED], [costs.cost[MISSED], 0, 0])
    np.testing.assert_allclose(costs.size_cost[CLASS], [0, costs.cost[CLASS], 0])


def test_only_the_best_of_several_errors_about_an_object_becomes_correct(make_index: IndexMaker) -> None:
    index = make_index([(0, "a", [0, 0, 40, 40])])
    found = detections(([0, 0, 40, 16], 0.9, 1), ([0, 0, 16, 40], 0.8, 1), ([0, 20, 40, 40], 0.7, 1))
    matches = match_detections(index, {10: found})
    errors = classify_errors(matches)
    # The last one has an IoU of exactly 0.5, and is correct: the object is found, so that nothing becomes correct.
    assert errors.kind.tolist() == [LOCALIZATION, LOCALIZATION, NO_ERROR]
    assert error_costs(matches, errors).cost[LOCALIZATION] == pytest.approx(1 - 1 / 3)
    matches = match_detections(index, {10: detections(([0, 0, 40, 16], 0.9, 1), ([0, 0, 16, 40], 0.8, 1))})
    errors = classify_errors(matches)
    assert not errors.missed.any()
    assert error_costs(matches, errors).cost[LOCALIZATION] == pytest.approx(1.0)


def test_confusion_matrix_of_the_case(make_index: IndexMaker) -> None:
    """Row: class of the object, column: class of the detection, background first."""
    matches, _ = worked_case(make_index)
    assert confusion_matrix(matches, np.array([0.0, 0.0])).tolist() == [
        [0, 4, 0],  # duplicate, localization, both and background
        [2, 1, 1],  # objects 2 and 3 without a detection, 0 found, 1 found as class b
        [0, 0, 1],
    ]
    assert confusion_matrix(matches, np.array([0.55, 0.65])).tolist() == [[0, 2, 0], [2, 1, 1], [1, 0, 0]]


def test_the_matrix_counts_every_object_and_detection_once(make_index: IndexMaker) -> None:
    index, results = random_case(make_index, 5)
    matches = match_detections(index, results)
    minimum = np.array([0.2, 0.4, 0.0, 0.6, 0.0])
    matrix = confusion_matrix(matches, minimum)
    objects = np.bincount(matches.objects.label[~matches.objects.crowd], minlength=6)[1:]
    assert matrix[1:].sum(axis=1).tolist() == objects.tolist()
    kept = (matches.found.score >= minimum[matches.found.label - 1].astype(np.float32)) & ~matches.ignored[0, 0]
    assert matrix[:, 1:].sum(axis=0).tolist() == np.bincount(matches.found.label[kept], minlength=6)[1:].tolist()
    assert (matrix[1:, 1:] > 0).sum() > 4


def test_ap50_before_a_correction_is_that_of_the_metric(make_index: IndexMaker) -> None:
    index, results = random_case(make_index, 6)
    matches = match_detections(index, results)
    costs = error_costs(matches, classify_errors(matches))
    values = evaluate_weighted(matches, np.ones((1, len(index.images)), int)).metrics()
    assert costs.ap50 == pytest.approx(values["AP50"][0], rel=1e-12)
    assert (costs.cost >= 0).all()
    assert costs.counts.sum(axis=(1, 2)).all()


def test_a_split_without_objects(make_index: IndexMaker) -> None:
    matches = match_detections(make_index([]), {10: detections(([0, 0, 9, 9], 0.9, 1))})
    errors = classify_errors(matches)
    assert errors.kind.tolist() == [BACKGROUND]
    assert np.isnan(error_costs(matches, errors).cost).all()
    assert confusion_matrix(matches, np.zeros(2)).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
