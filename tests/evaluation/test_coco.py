"""The metric against pycocotools called directly on files, and against cases computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.data.coco import Index, load_index
from frcnn.evaluation import coco
from frcnn.evaluation.coco import SUMMARY_NAMES, coco_results, evaluate_detections
from frcnn.inference import Detections

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int32))


def results_file(index: Index, results: dict[int, Detections]) -> list[dict]:
    """All detections in the COCO results format."""
    ids = index.category_ids
    return [entry for image_id, found in results.items() for entry in coco_results(image_id, found, ids)]


def index_of(folder: Path, annotations: list[dict], images: int = 1, categories: tuple[int, ...] = (7, 3)) -> Index:
    """Images of 200 x 200 pixels with the ids 10, 11, …; categories of any ids."""
    tree = {
        "images": [{"id": 10 + n, "file_name": f"{n}.png", "width": 200, "height": 200} for n in range(images)],
        "categories": [{"id": category, "name": f"class {category}"} for category in categories],
        "annotations": [
            {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], "image_id": 10, "category_id": 3, **a}
            for a in annotations
        ],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(tree))
    return load_index(folder, file, require_images=False)


def jittered(index: Index, seed: int) -> dict[int, Detections]:
    """Ground truth moved, duplicated, dropped and mislabeled, with many equal scores."""
    random = np.random.default_rng(seed)
    results = {}
    for record in index.images:
        repeat = np.repeat(np.arange(len(record.boxes)), random.integers(0, 4, len(record.boxes)))
        boxes = record.boxes[repeat]
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + random.normal(0, 0.08, boxes.shape).astype(np.float32) * sides
        labels = record.labels[repeat]
        wrong = random.random(len(labels)) < 0.1
        labels = np.where(wrong, random.integers(1, len(index.class_names) + 1, len(labels)), labels).astype(np.int32)
        scores = (random.integers(1, 20, len(labels)) / 20).astype(np.float32)
        results[record.image_id] = Detections(boxes.astype(np.float32), scores, labels)
    return results


@pytest.mark.parametrize(
    ("name", "images", "annotations"),
    [
        ("coco128", "train2017", "instances_train2017.json"),
        ("coco128", "val2017", "instances_val2017.json"),
        ("bccd", "test", "instances_test.json"),
    ],
)
def test_equals_pycocotools_called_on_files(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, images: str, annotations: str
) -> None:
    file = real_data / name / "annotations" / annotations
    index = load_index(real_data / name / images, file)
    results = jittered(index, seed=0)

    metrics = evaluate_detections(index, results)
    assert capsys.readouterr().out == ""

    (tmp_path / "results.json").write_text(json.dumps(results_file(index, results)))
    truth = COCO(str(file))
    oracle = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    # The index has float32 boxes clipped to the image, the file has decimal text: a match at exactly a threshold may
    # differ.
    np.testing.assert_allclose([metrics.summary[key] for key in SUMMARY_NAMES], oracle.stats, atol=1e-4)
    assert 0.2 < metrics.summary["AP"] < 0.9
    for position, category_id in enumerate(oracle.params.catIds):
        precision = oracle.eval["precision"][:, :, position, 0, 2]
        expected = precision[precision > -1].mean() if (precision > -1).any() else math.nan
        class_name = index.class_names[index.category_ids.index(category_id)]
        np.testing.assert_allclose(metrics.class_ap[class_name], expected, atol=1e-3)


def crowded_index(folder: Path, seed: int) -> Index:
    """40 images, the last 5 empty, with objects of all sizes and crowds in 6 of 8 classes; class 50 has only crowds."""
    random = np.random.default_rng(seed)
    annotations = []
    for number in range(250):
        corner, side = random.integers(0, 150, 2), np.minimum(random.integers(8, 130, 2), 50 + random.integers(0, 80))
        category = int(random.choice([3, 7, 8, 20, 21, 50], p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05]))
        annotations.append(
            {
                "id": number,
                "image_id": 10 + int(random.integers(0, 35)),
                "category_id": category,
                "bbox": [*corner.tolist(), *np.minimum(side, 200 - corner).tolist()],
                "area": float(random.integers(100, 12000)),
                "iscrowd": int(category == 50 or random.random() < 0.1),
            }
        )
    return index_of(folder, annotations, images=40, categories=(3, 7, 8, 20, 21, 50, 60, 61))


def all_at_once(index: Index, results: dict[int, Detections]) -> COCOeval:
    """pycocotools on all classes and images together; our labels are the category ids."""

    def entry(record_id: int, label: int, box: np.ndarray, **others: float) -> dict:
        x1, y1, x2, y2 = box.astype(np.float64).tolist()
        return {"image_id": record_id, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1], **others}

    truth = [
        entry(record.image_id, label, box, area=float(area), iscrowd=int(crowd))
        for record in index.images
        for label, box, area, crowd in zip(record.labels, record.boxes, record.areas, record.crowd, strict=True)
    ]
    found = [
        entry(image_id, label, box, score=float(score))
        for image_id, one in results.items()
        for label, box, score in zip(one.labels, one.boxes, one.scores, strict=True)
    ]
    file = COCO()
    file.dataset = {
        "info": {},
        "images": [{"id": record.image_id} for record in index.images],
        "categories": [{"id": position + 1} for position in range(len(index.class_names))],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(truth, start=1)],
    }
    file.createIndex()
    oracle = COCOeval(file, file.loadRes(found), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    return oracle


@pytest.mark.parametrize("seed", range(3))
def test_class_by_class_equals_all_classes_at_once_to_the_last_digit(tmp_path: Path, seed: int) -> None:
    index = crowded_index(tmp_path, seed)
    results = jittered(index, seed)
    # Wrong classes among them, so that class 60 without objects has detections; class 61 has neither.
    kept = {image_id: one.labels < 8 for image_id, one in results.items()}
    results = {
        image_id: Detections(one.boxes[rows], one.scores[rows], one.labels[rows])
        for (image_id, one), rows in zip(results.items(), kept.values(), strict=True)
    }
    # Neither the order of images may matter, nor images without an entry.
    shuffled = {image_id: results[image_id] for image_id in reversed(list(results)) if image_id != 12}
    metrics = evaluate_detections(index, shuffled)
    oracle = all_at_once(index, {image_id: one for image_id, one in results.items() if image_id != 12})
    assert [metrics.summary[name] for name in SUMMARY_NAMES] == oracle.stats.tolist()
    assert 0.1 < metrics.summary["AP"] < 0.9
    measured = oracle.eval["precision"][:, :, :, 0, -1]
    for position, name in enumerate(index.class_names):
        precision = measured[:, :, position][measured[:, :, position] > -1]
        assert metrics.class_ap[name] == precision.mean() if precision.size else math.isnan(metrics.class_ap[name])
    assert [name for name, value in metrics.class_ap.items() if math.isnan(value)] == [
        "class 50",
        "class 60",
        "class 61",
    ]


def test_progress_counts_classes_and_is_called_during_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = index_of(
        tmp_path, [{"id": number, "image_id": 10 + number, "bbox": [0, 0, 50, 50]} for number in range(4)], images=5
    )
    calls = []

    def progress(*counts: int) -> None:
        calls.append(counts)
        print("progress")

    evaluate_detections(index, {}, progress)
    assert calls == [(1, 2), (2, 2)]
    calls.clear()
    monkeypatch.setattr(coco, "PROGRESS_EVERY", 5)
    evaluate_detections(index, {}, progress)
    # Class 3 is in 4 images, each evaluated in 4 area ranges; class 7 is in none.
    assert calls == [(0, 2)] * 3 + [(1, 2), (2, 2)]
    assert capsys.readouterr().out == "progress\n" * 7


def test_an_exception_in_progress_ends_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = index_of(tmp_path, [{"id": 1, "bbox": [0, 0, 50, 50]}])
    calls = []

    def stop(*counts: int) -> None:
        calls.append(counts)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_detections(index, {}, stop)
    assert calls == [(1, 2)]
    print("not swallowed")
    assert capsys.readouterr().out == "not swallowed\n"


def test_perfect_detections_score_one_and_missing_sizes_are_not_a_number(tmp_path: Path) -> None:
    index = index_of(tmp_path, [{"id": 1, "bbox": [10, 10, 50, 50]}])
    metrics = evaluate_detections(index, {10: detections(([10, 10, 60, 60], 0.9, 1))})
    assert [metrics.summary[name] for name in ("AP", "AP75", "APm", "AR1")] == pytest.approx([1, 1, 1, 1])
    assert math.isnan(metrics.summary["APs"])
    assert math.isnan(metrics.summary["ARl"])
    assert metrics.class_ap["class 3"] == pytest.approx(1)
    assert math.isnan(metrics.class_ap["class 7"])
    assert (metrics.images, metrics.objects) == (1, 1)


def test_ap_of_a_case_computed_by_hand(tmp_path: Path) -> None:
    """Two objects; the best detection is wrong, the second finds one at IoU 0.8, so precision is 1/2 up to recall 1/2.

    At the 7 thresholds 0.50..0.80 AP is 51 of 101 recall points times 1/2; at the 3 higher ones it is 0. IoU 0.8 itself
    (a box of 100 x 80 inside one of 100 x 100) is reached, thresholds are "at least".
    """
    index = index_of(tmp_path, [{"id": 1, "bbox": [0, 0, 100, 100]}, {"id": 2, "bbox": [120, 120, 50, 50]}])
    found = detections(([150, 0, 190, 40], 0.9, 1), ([0, 0, 100, 80], 0.8, 1))
    metrics = evaluate_detections(index, {10: found})
    assert metrics.summary["AP50"] == pytest.approx(51 / 101 / 2)
    assert metrics.summary["AP75"] == pytest.approx(51 / 101 / 2)
    assert metrics.summary["AP"] == pytest.approx(51 / 101 / 2 * 7 / 10)
    assert metrics.summary["AR1"] == 0.0
    assert metrics.summary["AR10"] == pytest.approx(0.5 * 7 / 10)


def test_an_object_with_annotation_id_zero_can_be_found(tmp_path: Path) -> None:
    index = index_of(tmp_path, [{"id": 0, "bbox": [10, 10, 50, 50]}])
    assert evaluate_detections(index, {10: detections(([10, 10, 60, 60], 0.9, 1))}).summary["AP"] == pytest.approx(1)


def test_detections_inside_a_crowd_count_neither_way(tmp_path: Path) -> None:
    index = index_of(
        tmp_path, [{"id": 1, "bbox": [0, 0, 50, 50]}, {"id": 2, "bbox": [100, 100, 100, 100], "iscrowd": 1}]
    )
    crowd_first = detections(([110, 110, 130, 130], 0.9, 1), ([140, 140, 190, 190], 0.8, 1), ([0, 0, 50, 50], 0.5, 1))
    metrics = evaluate_detections(index, {10: crowd_first})
    assert metrics.summary["AP"] == pytest.approx(1)
    assert metrics.objects == 1


def test_images_without_results_count_as_missed(tmp_path: Path) -> None:
    index = index_of(
        tmp_path, [{"id": 1, "bbox": [0, 0, 50, 50]}, {"id": 2, "image_id": 11, "bbox": [0, 0, 50, 50]}], images=3
    )
    metrics = evaluate_detections(index, {10: detections(([0, 0, 50, 50], 0.9, 1))})
    assert metrics.summary["AR100"] == 0.5
    assert evaluate_detections(index, {10: NOTHING}).summary["AP"] == 0.0
    assert evaluate_detections(index, {}).summary["AP"] == 0.0


def test_results_of_an_unknown_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 99"):
        evaluate_detections(index_of(tmp_path, [{"id": 1, "bbox": [0, 0, 50, 50]}]), {99: NOTHING})


def test_json_has_the_coco_names_and_null_for_undefined_values(tmp_path: Path) -> None:
    index = index_of(tmp_path, [{"id": 1, "bbox": [10, 10, 50, 50]}])
    tree = json.loads(json.dumps(evaluate_detections(index, {}).to_json(), allow_nan=False))
    assert list(tree)[:12] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert tree["AP"] == 0.0
    assert tree["APs"] is None
    assert tree["class_AP"] == {"class 3": 0.0, "class 7": None}


def test_results_have_the_category_ids_of_the_file_and_widths(tmp_path: Path) -> None:
    index = index_of(tmp_path, [{"id": 1, "bbox": [0, 0, 50, 50]}])
    (entry,) = results_file(index, {10: detections(([10, 20, 40, 60], 0.5, 2))})
    assert entry == {"image_id": 10, "category_id": 7, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5}
    assert coco_results(4, NOTHING, (3, 7)) == []
    assert json.loads(json.dumps([entry])) == [entry]  # plain Python numbers
