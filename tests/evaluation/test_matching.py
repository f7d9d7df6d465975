"""Matches and metrics of resamples against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from detected_cases import IndexMaker, detections, random_case
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.data.coco import Index
from frcnn.evaluation import matching
from frcnn.evaluation.bootstrap import (
    RECALLS,
    _recalls_reached,
    evaluate_weighted,
    interval,
    precision_recall,
    resample_weights,
)
from frcnn.evaluation.matching import match_detections
from frcnn.evaluation.thresholds import precision_at_recalls
from frcnn.inference import Detections


def pycocotools_result(index: Index, results: dict[int, Detections], copies: np.ndarray) -> COCOeval:
    """pycocotools on images that occur ``copies`` times, with neighboring ids."""
    truth: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n + 1} for n in range(len(index.class_names))],
    }
    found: dict = {**truth, "annotations": []}
    for number, record in enumerate(index.images):
        for copy in range(copies[number]):
            image_id = 1000 * number + copy
            truth["images"].append({"id": image_id})
            for box, label, area, crowd in zip(record.boxes, record.labels, record.areas, record.crowd, strict=True):
                truth["annotations"].append(entry(image_id, box, label, float(area), int(crowd)))
            one = results.get(record.image_id)
            for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True) if one else ():
                x1, y1, x2, y2 = box.astype(np.float64).tolist()
                area = (x2 - x1) * (y2 - y1)
                found["annotations"].append({**entry(image_id, box, label, area, 0), "score": float(score)})
    found["images"] = truth["images"]
    oracle = COCOeval(*(loaded(tree) for tree in (truth, found)), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    return oracle


def entry(image_id: int, box: np.ndarray, label: int, area: float, crowd: int) -> dict:
    x1, y1, x2, y2 = box.astype(np.float64).tolist()
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image_id, "category_id": int(label), "bbox": bbox, "area": area, "iscrowd": crowd}


def loaded(tree: dict) -> COCO:
    coco = COCO()
    coco.dataset = {**tree, "annotations": [{"id": n, **row} for n, row in enumerate(tree["annotations"], start=1)]}
    coco.createIndex()
    return coco


@pytest.mark.parametrize("seed", range(3))
def test_precision_equals_pycocotools(make_index: IndexMaker, seed: int) -> None:
    """At every IoU threshold, class and area range, with crowds, ignored objects and images without objects."""
    index, results = random_case(make_index, seed)
    del results[12]
    matches = match_detections(index, results)
    oracle = pycocotools_result(index, results, np.ones(len(index.images), int))
    precision, recall = evaluate_weighted(matches, np.ones((1, len(index.images)), int))
    expected = oracle.eval["precision"][..., -1]  # [T, recalls, K, A]
    defined = (expected > -1).all(axis=1).transpose(1, 0, 2)
    np.testing.assert_array_equal(np.isfinite(precision[0]), defined)
    np.testing.assert_allclose(precision[0][defined], expected.mean(axis=1).transpose(1, 0, 2)[defined], rtol=1e-12)
    np.testing.assert_allclose(recall[0][defined], oracle.eval["recall"][..., -1].transpose(1, 0, 2)[defined])
    for position, threshold in ((0, 0.5), (5, 0.75)):
        assert matching.IOU_THRESHOLDS[position] == pytest.approx(threshold)
        for label in (1, 2, 3):
            curve = precision_at_recalls(matches, label, position)
            np.testing.assert_allclose(curve, expected[position, :, label - 1, 0], rtol=1e-12)
    assert precision_at_recalls(matches, 4, 0) is None
    assert 0.1 < np.nanmean(precision) < 0.9


def test_a_resample_equals_pycocotools_on_the_resampled_images(make_index: IndexMaker) -> None:
    index, results = random_case(make_index, 7)
    weights = resample_weights(len(index.images), 3)
    assert (weights.sum(axis=1) == len(index.images)).all()
    assert weights.max() > 2
    assert len({row.tobytes() for row in weights}) == 3
    values = evaluate_weighted(match_detections(index, results), weights).metrics()
    for row, copies in enumerate(weights):
        oracle = pycocotools_result(index, results, copies)
        for name, stat in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), oracle.stats[:6], strict=True):
            assert values[name][row] == pytest.approx(stat, rel=1e-12), name
        assert values["AR100"][row] == pytest.approx(oracle.stats[8], rel=1e-12)


def test_precision_and_recall_of_resamples_equal_a_count_image_by_image(make_index: IndexMaker) -> None:
    index, results = random_case(make_index, 5)
    matches = match_detections(index, results)
    minimum = np.array([0.2, 0.4, 0.6, 0.1, 0.3])
    weights = resample_weights(len(index.images), 3)
    precision, recall = precision_recall(matches, minimum, weights)
    for row, copies in enumerate(weights):
        correct = detected = objects = 0
        for image, times in enumerate(copies):
            for n in np.flatnonzero(matches.found.image == image):
                if matches.found.score[n] >= minimum[matches.found.label[n] - 1] and not matches.ignored[0, 0, n]:
                    detected += times
                    correct += times * matches.matched[0, 0, n]
            objects += times * (~index.images[image].crowd).sum()
        assert (precision[row], recall[row]) == (correct / detected, correct / objects)
        assert 0.1 < recall[row] < 0.9
    nothing = precision_recall(matches, np.ones(5), weights[:1])
    assert np.isnan(nothing[0])
    assert nothing[1] == 0


def test_only_the_best_detections_of_a_class_in_an_image_count(
    make_index: IndexMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COCO's maximum is per class, so that other classes do not push a detection out."""
    index = make_index([(0, "a", [0, 0, 50, 50])])
    results = {10: detections(([90, 90, 99, 99], 0.9, 1), ([80, 80, 99, 99], 0.8, 2), ([0, 0, 50, 50], 0.7, 1))}
    matched = match_detections(index, results)
    assert matched.found.score.tolist() == pytest.approx([0.9, 0.7, 0.8])
    assert matched.partner.tolist() == [-1, 0, -1]
    monkeypatch.setattr(matching, "MAX_DETECTIONS", 1)
    assert match_detections(index, results).partner.tolist() == [-1, -1]


def test_a_split_without_objects_or_detections(make_index: IndexMaker) -> None:
    index = make_index([], images=2)
    matches = match_detections(index, {})
    values = evaluate_weighted(matches, np.ones((2, 2), int)).metrics()
    assert all(np.isnan(value).all() for value in values.values())
    assert np.isnan(interval(values["AP"])).all()
    index = make_index([(0, "a", [0, 0, 50, 50])], images=2)
    assert evaluate_weighted(match_detections(index, {}), np.ones((1, 2), int)).metrics()["AP"] == [0.0]


def test_the_interval_covers_95_percent_of_the_resamples() -> None:
    assert interval(np.array([*range(1001), np.nan])) == (pytest.approx(25), pytest.approx(975))


def test_resamples_spread_as_theory_says() -> None:
    """The count of an image is binomial: mean 1, variance 1 - 1/I."""
    weights = resample_weights(50, 4000)
    np.testing.assert_allclose(weights.mean(), 1.0)
    np.testing.assert_allclose(weights.var(axis=0).mean(), 1 - 1 / 50, rtol=0.05)


def test_recalls_are_counted_as_pycocotools_does() -> None:
    """At all fractions of up to 300 objects, many of which are at a recall, or an ulp beside it."""
    recall = np.concatenate([np.arange(n + 1) / n for n in range(1, 301)])
    np.testing.assert_array_equal(_recalls_reached(recall), np.searchsorted(RECALLS, recall, side="right"))
    for direction in (0, 2):
        beside = np.clip(np.nextafter(recall, direction), 0, 1)
        np.testing.assert_array_equal(_recalls_reached(beside), np.searchsorted(RECALLS, beside, side="right"))
