"""The COCO detection metric, by pycocotools itself, on data that never leaves memory."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.data.coco import Index
from frcnn.distributed import World
from frcnn.inference import Detections

# Order of COCOeval.stats: precision over IoU 0.50:0.95, at 0.50, at 0.75, for small, medium and large objects (borders 32² and
# 96² square pixels); recall with at most 1, 10 and 100 detections an image, then by object size.
SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Metrics:
    """Result of one evaluation.

    Attributes:
        summary: the 12 COCO numbers by the names of ``SUMMARY_NAMES``, in 0..1; NaN where no object counts towards one.
        class_ap: AP over IoU 0.50:0.95 by class name; NaN for a class without objects.
        images: how many images were evaluated.
        objects: how many objects they hold, crowd regions left out.
    """

    summary: dict[str, float]
    class_ap: dict[str, float]
    images: int
    objects: int

    def to_json(self) -> dict[str, Any]:
        """The 12 numbers at the top, then ``class_AP``, ``images`` and ``objects``; NaN as null."""
        return {
            **{name: _null_if_nan(value) for name, value in self.summary.items()},
            "class_AP": {name: _null_if_nan(value) for name, value in self.class_ap.items()},
            "images": self.images,
            "objects": self.objects,
        }


def evaluate_detections(index: Index, results: Mapping[int, Detections]) -> Metrics:
    """The 12 COCO numbers and the AP of each class over all images of the index.

    Args:
        index: ground truth; crowd regions swallow detections without counting for or against them.
        results: detections by image id, labels as in the index; an image without an entry counts as one where nothing was found.

    Raises:
        ValueError: a result belongs to an image that the index does not have.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every phase by print
        evaluation = COCOeval(_coco(index, _ground_truth(index)), _coco(index, _detected(index, results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # [IoU thresholds, recalls, classes, areas, detections allowed]; -1 where there is nothing to measure.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    class_ap = [_mean_of_measured(precision[:, :, position]) for position in range(len(index.class_names))]
    return Metrics(
        summary={name: _nan_if_unmeasured(value) for name, value in zip(SUMMARY_NAMES, evaluation.stats, strict=True)},
        class_ap=dict(zip(index.class_names, class_ap, strict=True)),
        images=len(index.images),
        objects=sum(int((~record.crowd).sum()) for record in index.images),
    )


def gather_detections(index: Index, results: Mapping[int, Detections], world: World) -> dict[int, Detections]:
    """The detections of all ranks, each of which brings those of its share of the index; in the order of the index."""
    if world.size == 1:
        return dict(results)
    found = list(results.values())
    arrays = (
        np.array(list(results), np.int64),
        np.array([len(detections.scores) for detections in found], np.int64),
        np.concatenate([np.zeros((0, 4), np.float32), *(detections.boxes for detections in found)]),
        np.concatenate([np.zeros(0, np.float32), *(detections.scores for detections in found)]),
        np.concatenate([np.zeros(0, np.int32), *(detections.labels for detections in found)]),
    )
    everyones: dict[int, Detections] = {}
    for ids, counts, boxes, scores, labels in world.gather(arrays):
        ends = np.cumsum(counts)[:-1]
        parts = zip(np.split(boxes, ends), np.split(scores, ends), np.split(labels, ends), strict=True)
        everyones.update(zip(ids.tolist(), map(Detections._make, parts), strict=bool(len(ids))))
    return {record.image_id: everyones[record.image_id] for record in index.images}


def to_coco_results(index: Index, results: Mapping[int, Detections]) -> list[dict[str, Any]]:
    """Detections as the COCO results format has them: ``bbox`` is ``[x, y, width, height]``, ``category_id`` is the file's."""
    return [entry for image_id, detections in results.items() for entry in coco_results(image_id, detections, index.category_ids)]


def coco_results(image_id: int, detections: Detections, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """One image's detections in the COCO results format; label k is ``category_ids[k - 1]``."""
    boxes = _xywh(detections.boxes)
    return [
        {"image_id": int(image_id), "category_id": int(category_ids[label - 1]), "bbox": box, "score": float(score)}
        for box, score, label in zip(boxes, detections.scores, detections.labels, strict=True)
    ]


def _ground_truth(index: Index) -> list[dict[str, Any]]:
    columns = [
        (record.image_id, label, box, float(area), int(crowd))
        for record in index.images
        for label, box, area, crowd in zip(record.labels, _xywh(record.boxes), record.areas, record.crowd, strict=True)
    ]
    return _annotations(columns)


def _detected(index: Index, results: Mapping[int, Detections]) -> list[dict[str, Any]]:
    unknown = set(results) - {record.image_id for record in index.images}
    if unknown:
        raise ValueError(f"results for image {min(unknown)} and {len(unknown) - 1} more, which {index.source} does not list")
    columns = [
        (image_id, label, box, box[2] * box[3], 0)
        for image_id, detections in results.items()
        for label, box in zip(detections.labels, _xywh(detections.boxes), strict=True)
    ]
    annotations = _annotations(columns)
    scores = [float(score) for detections in results.values() for score in detections.scores]
    for annotation, score in zip(annotations, scores, strict=True):
        annotation["score"] = score
    return annotations


def _annotations(columns: list[tuple[int, int, list[float], float, int]]) -> list[dict[str, Any]]:
    # Ids are counted from 1 here whatever the file has: pycocotools marks "no match" by id 0, so an object with that id is never found.
    return [
        {"id": number, "image_id": image_id, "category_id": int(label), "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image_id, label, box, area, crowd) in enumerate(columns, start=1)
    ]


def _coco(index: Index, annotations: list[dict[str, Any]]) -> Any:
    """A COCO object whose category ids are the labels 1..K, so that class k is position k - 1 of every result."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": record.image_id, "width": record.width, "height": record.height} for record in index.images],
        "categories": [{"id": label, "name": name} for label, name in enumerate(index.class_names, start=1)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def _mean_of_measured(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan


def _nan_if_unmeasured(value: float) -> float:
    return float(value) if value > -1 else math.nan


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
