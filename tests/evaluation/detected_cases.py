"""Ground truth and detections that test files of the evaluation share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from frcnn.data.coco import Index, load_index
from frcnn.inference import Detections


class IndexMaker:
    """Writes COCO files of 200 x 200 images with the ids 10, 11, … and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, annotations: list, images: int = 1, classes: tuple[str, ...] = ("a", "b")) -> Index:
        """Annotations are ``(image number, class, [x, y, width, height])``, or dictionaries with more keys."""
        entries = [
            {"image_id": 10 + entry[0], "category_id": classes.index(entry[1]) + 1, "bbox": list(entry[2])}
            if isinstance(entry, tuple)
            else entry
            for entry in annotations
        ]
        tree = {
            "images": [{"id": 10 + n, "file_name": f"{n}.png", "width": 200, "height": 200} for n in range(images)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
            "annotations": [
                {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry}
                for number, entry in enumerate(entries, start=1)
            ],
        }
        file = self.folder / "instances.json"
        file.write_text(json.dumps(tree))
        return load_index(self.folder, file, require_images=False)


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    """Rows of corners, score and label."""
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int32), ("a", "b"))


def random_case(make_index: IndexMaker, seed: int, images: int = 30) -> tuple[Index, dict[int, Detections]]:
    """Crowded images with objects of all sizes in classes a, b, c (d has detections only, e has crowds only)."""
    random = np.random.default_rng(seed)
    names = ("a", "b", "c", "d", "e")
    annotations = []
    for _ in range(8 * images):
        corner, side = random.integers(0, 150, 2), random.integers(8, 130, 2)
        label = int(random.choice([1, 2, 3, 5], p=[0.5, 0.25, 0.15, 0.1]))
        annotations.append(
            {
                "image_id": 10 + int(random.integers(0, images - 2)),
                "category_id": label,
                "bbox": [*corner.tolist(), *np.minimum(side, 200 - corner).tolist()],
                "area": float(random.integers(100, 12000)),
                "iscrowd": int(label == 5 or random.random() < 0.1),
            }
        )
    index = make_index(annotations, images, names)
    results = {}
    for record in index.images:
        repeat = np.repeat(np.arange(len(record.boxes)), random.integers(0, 4, len(record.boxes)))
        boxes, labels = record.boxes[repeat], record.labels[repeat]
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = (boxes + random.normal(0, 0.08, boxes.shape) * sides).astype(np.float32)
        labels = np.where(random.random(len(labels)) < 0.2, random.integers(1, 5, len(labels)), labels)
        scores = random.random(len(labels)).astype(np.float32)
        results[record.image_id] = Detections(boxes, scores, labels.astype(np.int32), names)
    return index, results
