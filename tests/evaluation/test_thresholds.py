"""Curves over the score and thresholds, against tables worked by hand and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from detected_cases import IndexMaker, detections, random_case

from frcnn.data.coco import Index
from frcnn.evaluation.matching import match_detections
from frcnn.evaluation.thresholds import Goal, choose_point, count_at_scores, macro_f1, score_curve, thresholds_document
from frcnn.inference import Detections

FOUR_OBJECTS = [(0, "a", [0, 0, 40, 40]), (0, "a", [50, 0, 40, 40]), (0, "a", [100, 0, 40, 40])]


def four_objects(make_index: IndexMaker) -> tuple[Index, dict[int, Detections]]:
    """Class a by score: correct, correct, wrong, correct and wrong (equal scores), and one object not found.

    | score | kept | correct | precision | recall | F1 |
    | 0.9 | 1 | 1 | 1 | 1/4 | 2/5 |
    | 0.8 | 2 | 2 | 1 | 2/4 | 2/3 |
    | 0.6 | 3 | 2 | 2/3 | 2/4 | 4/7 |
    | 0.3 | 5 | 3 | 3/5 | 3/4 | 2/3 |
    """
    index = make_index([*FOUR_OBJECTS, (0, "a", [150, 0, 40, 40]), (0, "b", [0, 100, 40, 40])])
    found = detections(
        ([0, 0, 40, 40], 0.9, 1),
        ([50, 0, 90, 40], 0.8, 1),
        ([0, 150, 40, 190], 0.6, 1),
        ([100, 0, 140, 40], 0.3, 1),
        ([60, 150, 99, 190], 0.3, 1),
        ([150, 150, 190, 190], 0.2, 2),
    )
    return index, {10: found}


def test_the_curve_of_a_case_worked_by_hand(make_index: IndexMaker) -> None:
    curve = score_curve(match_detections(*four_objects(make_index)), 1)
    np.testing.assert_allclose(curve.score, [0.9, 0.8, 0.6, 0.3], rtol=1e-6)
    np.testing.assert_allclose(curve.precision, [1, 1, 2 / 3, 3 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 4, 2 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(curve.f1, [2 / 5, 2 / 3, 4 / 7, 2 / 3])
    assert curve.objects == 4


def test_counts_at_scores_of_a_case_worked_by_hand(make_index: IndexMaker) -> None:
    matches = match_detections(*four_objects(make_index))
    scores = np.array([0.0, 0.2, 0.3, 0.35, 0.8, 0.9, 0.95])
    one = count_at_scores(matches, scores, 1)
    assert one.correct.tolist() == [3, 3, 3, 2, 2, 1, 0]
    assert one.wrong.tolist() == [2, 2, 2, 1, 0, 0, 0]
    assert one.objects == 4
    overall = count_at_scores(matches, scores)
    assert (overall.correct.tolist(), overall.wrong.tolist()) == ([3, 3, 3, 2, 2, 1, 0], [3, 3, 2, 1, 0, 0, 0])
    assert overall.objects == 5


@pytest.mark.parametrize(
    ("goal", "score", "met"),
    [
        (Goal(), 0.8, True),  # of two equal ones the higher threshold
        (Goal("precision", 0.95), 0.8, True),
        (Goal("precision", 0.6), 0.3, True),
        (Goal("recall", 0.5), 0.8, True),
        (Goal("recall", 0.6), 0.3, True),
        (Goal("recall", 0.9), 0.3, False),
    ],
)
def test_thresholds_of_a_case_worked_by_hand(make_index: IndexMaker, goal: Goal, score: float, met: bool) -> None:
    point = choose_point(score_curve(match_detections(*four_objects(make_index)), 1), goal)
    assert point is not None
    assert point.threshold == pytest.approx(score, abs=0.01)
    assert point.met is met


def test_macro_f1_of_a_case_worked_by_hand(make_index: IndexMaker) -> None:
    """Class a has 2/3 at best, class b 0, and without objects a class does not count."""
    index, results = four_objects(make_index)
    assert macro_f1(match_detections(index, results)) == pytest.approx(1 / 3)
    alone = make_index([*FOUR_OBJECTS, (0, "a", [150, 0, 40, 40])])
    assert macro_f1(match_detections(alone, results)) == pytest.approx(2 / 3)
    assert macro_f1(match_detections(alone, {})) == 0.0
    assert np.isnan(macro_f1(match_detections(make_index([]), results)))


def test_a_precision_out_of_reach_takes_the_best_one(make_index: IndexMaker) -> None:
    index = make_index(FOUR_OBJECTS)
    found = detections(([0, 150, 40, 190], 0.9, 1), ([0, 0, 40, 40], 0.8, 1), ([60, 150, 99, 190], 0.5, 1))
    point = choose_point(score_curve(match_detections(index, {10: found}), 1), Goal("precision", 0.9))
    assert point is not None
    assert (point.precision, point.met) == (0.5, False)
    assert point.threshold == pytest.approx(0.8, abs=0.01)


def test_the_document_has_classes_and_overall(make_index: IndexMaker) -> None:
    """Overall: the detection of class b is wrong, and its object is not found: recall 3/5 and precision 3/6 at 0.2."""
    index, results = four_objects(make_index)
    document = thresholds_document(match_detections(index, results), index, "validation")
    assert document is not None
    assert (document["goal"], document["iou"], document["split"]) == ("maximum F1", 0.5, "validation")
    assert document["data"] == index.fingerprint
    assert document["classes"]["b"] is None  # nothing found
    assert document["classes"]["a"]["f1"] == pytest.approx(2 / 3, abs=1e-4)
    # F1 overall: 0.8: 2*2/(2+5) = 4/7; 0.3: 2*3/(5+5) = 3/5.
    assert document["overall"]["f1"] == 0.6
    assert document["overall"]["threshold"] == pytest.approx(0.3, abs=0.01)
    assert thresholds_document(match_detections(index, {}), index, "validation") is None


def test_thresholds_are_short_and_separate(make_index: IndexMaker) -> None:
    index = make_index(FOUR_OBJECTS)
    close = np.nextafter(np.float32(0.7), np.float32(0))
    found = detections(([0, 0, 40, 40], 0.7, 1), ([0, 150, 40, 190], close, 1))
    point = choose_point(score_curve(match_detections(index, {10: found}), 1), Goal())
    assert point is not None
    assert (found.scores >= point.threshold).tolist() == [True, False]
    found = detections(([0, 0, 40, 40], 0.7654321, 1), ([0, 150, 40, 190], 0.42, 1))
    point = choose_point(score_curve(match_detections(index, {10: found}), 1), Goal())
    assert point is not None
    assert point.threshold == 0.76


def test_recall_and_precision_equal_a_count_over_all_pairs(make_index: IndexMaker) -> None:
    """At the threshold of each curve point: the detections that are kept, counted one by one."""
    index, results = random_case(make_index, 3)
    matches = match_detections(index, results)
    curve = score_curve(matches, 1)
    for row in range(0, len(curve.score), 7):
        kept = {
            image_id: Detections(*(column[one.scores >= np.float32(curve.score[row])] for column in columns(one)))
            for image_id, one in results.items()
        }
        again = match_detections(index, kept)
        label = again.of_label(1)
        counted = ~again.ignored[0, 0, label]
        assert curve.precision[row] == pytest.approx((again.matched[0, 0, label] & counted).sum() / counted.sum())
        assert curve.recall[row] == pytest.approx((again.matched[0, 0, label] & counted).sum() / curve.objects)


def columns(one: Detections) -> tuple[np.ndarray, ...]:
    return one.boxes, one.scores, one.labels
