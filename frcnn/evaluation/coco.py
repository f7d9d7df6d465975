"""The COCO detection metric, computed by pycocotools itself, from arrays in memory."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.data.coco import Index
from frcnn.distributed import World
from frcnn.inference import Detections

# Order of COCOeval.stats: precision over IoU 0.50:0.95, at 0.50, at 0.75, for small, medium and large objects (limits:
# 32² and 96² square pixels); recall with at most 1, 10 and 100 detections per image, then by object size.
SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

# Calls of COCOeval.evaluateImg between two calls of the progress function; one takes up to about 50 ms.
PROGRESS_EVERY = 1000


@dataclass(frozen=True)
class Metrics:
    """Result of one evaluation.

    Attributes:
        summary: the 12 COCO metrics by the names of ``SUMMARY_NAMES``, in 0..1; NaN if no object contributes to one. A
            caller may add others.
        class_ap: AP over IoU 0.50:0.95 by class name; NaN for a class without objects.
        images: number of images evaluated.
        objects: number of annotated objects in them, without crowd regions.
    """

    summary: dict[str, float]
    class_ap: dict[str, float]
    images: int
    objects: int

    def to_json(self) -> dict[str, Any]:
        """The metrics of ``summary`` as top-level keys, then ``class_AP``, ``images`` and ``objects``; NaN as null."""
        return {
            **{name: _null_if_nan(value) for name, value in self.summary.items()},
            "class_AP": {name: _null_if_nan(value) for name, value in self.class_ap.items()},
            "images": self.images,
            "objects": self.objects,
        }


def evaluate_detections(
    index: Index, results: Mapping[int, Detections], progress: Callable[[int, int], None] | None = None
) -> Metrics:
    """The 12 COCO metrics and the AP of each class over all images of the index.

    Classes are evaluated one at a time, on the images that have an object or a detection of the class. The metric is
    defined per class and other images contribute nothing, so the result is that of one pycocotools run over everything,
    in the memory of the most frequent class.

    Args:
        index: ground truth; detections in crowd regions are ignored.
        results: detections by image id, labels as in the index; an image without an entry has no detections.
        progress: called with (classes done, number of classes) after each class, and repeatedly during a class with
            many images, so that a watchdog can be fed from it. Its exceptions end the evaluation.

    Raises:
        ValueError: a result belongs to an image that is not in the index.
    """
    summary = COCOeval(iouType="bbox")
    counts = (
        len(summary.params.iouThrs),
        len(summary.params.recThrs),
        len(summary.params.areaRng),
        len(summary.params.maxDets),
    )
    thresholds, recalls, areas, max_detections = counts
    classes = len(index.class_names)
    # -1 is pycocotools' value for "undefined".
    precision = np.full((thresholds, recalls, classes, areas, max_detections), -1.0)
    recall = np.full((thresholds, classes, areas, max_detections), -1.0)
    truth, found = _ground_truth(index), _detected(index, results)
    stdout = sys.stdout

    def report(done: int) -> None:
        if progress:
            with contextlib.redirect_stdout(stdout):
                progress(done, classes)

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every phase
        for position in range(classes):
            report_alive = functools.partial(report, position)
            measured = _OneClass(truth.of_label(position + 1), found.of_label(position + 1), report_alive).measure()
            precision[:, :, position], recall[:, position] = measured["precision"][:, :, 0], measured["recall"][:, 0]
            report(position + 1)
        summary.eval = {"precision": precision, "recall": recall}
        summary.summarize()
    class_ap = [_mean_of_defined(precision[:, :, position, 0, -1]) for position in range(classes)]
    return Metrics(
        summary={name: _nan_if_undefined(value) for name, value in zip(SUMMARY_NAMES, summary.stats, strict=True)},
        class_ap=dict(zip(index.class_names, class_ap, strict=True)),
        images=len(index.images),
        objects=sum(int((~record.crowd).sum()) for record in index.images),
    )


def gather_detections(index: Index, results: Mapping[int, Detections], world: World) -> dict[int, Detections]:
    """Merge the detections of all ranks, each of which has those of its part of the index, in the index's order."""
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
    merged: dict[int, Detections] = {}
    for ids, counts, boxes, scores, labels in world.allgather(arrays):
        ends = np.cumsum(counts)[:-1]
        parts = zip(np.split(boxes, ends), np.split(scores, ends), np.split(labels, ends), strict=True)
        # Without images on a rank, np.split still gives one empty part.
        for image_id, part in zip(ids.tolist(), parts, strict=bool(len(ids))):
            merged[image_id] = Detections(*part, index.class_names)
    return {record.image_id: merged[record.image_id] for record in index.images}


def coco_results(image_id: int, detections: Detections, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """One image's detections in the COCO results format; label k is ``category_ids[k - 1]``."""
    boxes = _xywh(detections.boxes)
    return [
        {"image_id": int(image_id), "category_id": int(category_ids[label - 1]), "bbox": box, "score": float(score)}
        for box, score, label in zip(boxes, detections.scores, detections.labels, strict=True)
    ]


class _Columns(NamedTuple):
    """Objects or detections of many images, one per row, sorted by label.

    This takes a tenth of the memory of pycocotools' dictionaries, which are made for one class at a time.

    Attributes:
        labels: ``[N]``, ascending; rows of the same label keep their order.
        image_ids: ``[N]`` int64.
        boxes: ``[N, 4]`` float32, corners.
        areas: ``[N]`` float64, square pixels.
        crowd: ``[N]`` bool.
        scores: ``[N]`` float32; 0 for objects, where it is not used.
    """

    labels: np.ndarray
    image_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    scores: np.ndarray

    @classmethod
    def sorted(cls, labels: np.ndarray, *others: np.ndarray) -> _Columns:
        """Sort rows by label; ``others`` are the remaining columns in the order of the attributes."""
        order = np.argsort(labels, kind="stable")
        return cls(*(column[order] for column in (labels, *others)))

    def of_label(self, label: int) -> list[dict[str, Any]]:
        """The rows of a label as COCO annotations, all of category 1."""
        rows = slice(*np.searchsorted(self.labels, [label, label + 1]))
        columns = (
            self.image_ids[rows].tolist(),
            _xywh(self.boxes[rows]),
            *(column[rows].tolist() for column in self[3:]),
        )
        # Number ids from 1, whatever the file has: pycocotools marks "no match" by id 0, so that an object with id 0
        # never matches.
        return [
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
                "score": score,
            }
            for number, (image_id, box, area, crowd, score) in enumerate(zip(*columns, strict=True), start=1)
        ]


def _ground_truth(index: Index) -> _Columns:
    records = index.images
    labels = _concatenate([record.labels for record in records], np.int32)
    return _Columns.sorted(
        labels,
        np.repeat(
            np.array([record.image_id for record in records], np.int64), [len(record.labels) for record in records]
        ),
        _concatenate([record.boxes for record in records], np.float32).reshape(-1, 4),
        _concatenate([record.areas for record in records], np.float64),
        _concatenate([record.crowd for record in records], np.bool_),
        np.zeros(len(labels), np.float32),
    )


def _detected(index: Index, results: Mapping[int, Detections]) -> _Columns:
    unknown = set(results) - {record.image_id for record in index.images}
    if unknown:
        raise ValueError(f"results for image {min(unknown)} and {len(unknown) - 1} more that are not in {index.source}")
    found = list(results.values())
    boxes = _concatenate([detections.boxes for detections in found], np.float32).reshape(-1, 4)
    return _Columns.sorted(
        _concatenate([detections.labels for detections in found], np.int32),
        np.repeat(np.array(list(results), np.int64), [len(detections.labels) for detections in found]),
        boxes,
        (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).prod(axis=1),
        np.zeros(len(boxes), np.bool_),
        _concatenate([detections.scores for detections in found], np.float32),
    )


def _concatenate(arrays: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]).astype(dtype) if arrays else np.zeros(0, dtype)


class _OneClass(COCOeval):
    """pycocotools on the annotations of one class, over the images that have any.

    ``report_alive`` is called every ``PROGRESS_EVERY`` images.
    """

    def __init__(
        self, truth: list[dict[str, Any]], found: list[dict[str, Any]], report_alive: Callable[[], None]
    ) -> None:
        image_ids = {annotation["image_id"] for annotation in truth + found}
        super().__init__(_coco(image_ids, truth), _coco(image_ids, found), "bbox")
        self._report_alive = report_alive
        self._compared = 0

    def measure(self) -> dict[str, np.ndarray]:
        """``precision`` ``[IoU thresholds, recalls, 1, areas, max detections]``; ``recall`` without the second axis."""
        self.evaluate()
        self.accumulate()
        return self.eval

    def evaluateImg(self, *arguments: Any) -> Any:
        """Called by ``evaluate`` for each image and area range."""
        self._compared += 1
        if self._compared % PROGRESS_EVERY == 0:
            self._report_alive()
        return super().evaluateImg(*arguments)


def _coco(image_ids: set[int], annotations: list[dict[str, Any]]) -> Any:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": 1}],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def _mean_of_defined(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan


def _nan_if_undefined(value: float) -> float:
    return float(value) if value > -1 else math.nan


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
