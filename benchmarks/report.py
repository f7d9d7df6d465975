"""Time, memory and size of a report on a split of COCO's size.

    python benchmarks/report.py --json report.json

Generates objects of 80 classes and 100 detections per image (moved, doubled, of wrong classes, missed, on the
background), and writes the report; all images are one file. Prints seconds, the peak memory of the process, the import
of TensorFlow included, and the size of the page.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from frcnn.config import Config
from frcnn.data.coco import Index, load_index
from frcnn.inference import Detections
from frcnn.report.page import ReportInput, write_report

WIDTH, HEIGHT = 640, 480
CLASSES = 80
DETECTIONS = 100  # per image: the model's maximum


def make_split(folder: Path, images: int, boxes: int, rng: np.random.Generator) -> Index:
    """Objects of all sizes, in images that are copies of one file."""
    pixels = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((WIDTH, HEIGHT))
    names = [f"{number}.jpg" for number in range(images)]
    pixels.save(folder / names[0])
    for name in names[1:]:
        (folder / name).hardlink_to(folder / names[0])
    sides = np.exp(rng.uniform(np.log(12), np.log(300), (boxes, 2))).round(1)
    corners = (rng.random((boxes, 2)) * (np.array([WIDTH, HEIGHT]) - sides)).round(1)
    tree = {
        "images": [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(names)],
        "categories": [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)],
        "annotations": [
            {"id": n, "image_id": n % images, "category_id": int(label), "bbox": [*corner, *side], "iscrowd": 0}
            for n, (label, corner, side) in enumerate(
                zip(rng.integers(1, CLASSES + 1, boxes), corners.tolist(), sides.tolist(), strict=True)
            )
        ],
    }
    (folder / "instances.json").write_text(json.dumps(tree))
    return load_index(folder, folder / "instances.json")


def make_detections(index: Index, rng: np.random.Generator) -> dict[int, Detections]:
    """Objects found with noise, some twice or with another class, filled up with detections of low scores."""
    results = {}
    for record in index.images:
        rows = np.repeat(np.arange(len(record.boxes)), rng.choice(3, len(record.boxes), p=[0.15, 0.7, 0.15]))
        sides = np.tile(record.boxes[rows, 2:] - record.boxes[rows, :2], 2)
        boxes = record.boxes[rows] + rng.normal(0, 0.07, (len(rows), 4)) * sides
        labels = np.where(rng.random(len(rows)) < 0.1, rng.integers(1, CLASSES + 1, len(rows)), record.labels[rows])
        others = DETECTIONS - len(rows)
        corners = rng.random((others, 2)) * [WIDTH - 80, HEIGHT - 80]
        boxes = np.concatenate([boxes, np.concatenate([corners, corners + 60], axis=1)])
        labels = np.concatenate([labels, rng.integers(1, CLASSES + 1, others)])
        scores = np.concatenate([rng.beta(5, 2, len(rows)), rng.beta(1, 8, others)])
        order = np.argsort(-scores)
        columns = boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order].astype(np.int32)
        results[record.image_id] = Detections(*columns, index.class_names)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=36_000, help="in all images together")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        index = make_split(Path(folder), arguments.images, arguments.boxes, rng)
        given = ReportInput("synthetic", "validation", Config(), index, make_detections(index, rng), None)
        start, before = time.perf_counter(), time.process_time()
        page = write_report(Path(folder) / "report", given)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - before
        megabytes = page.stat().st_size / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.images} images, {arguments.boxes} objects, {DETECTIONS * arguments.images} detections")
    print(
        f"  {seconds:.1f} s ({cpu_seconds:.1f} s of CPU time), {memory:.0f} MiB peak memory, page of {megabytes:.1f} MB"
    )
    if arguments.json:
        figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": memory, "page_mb": megabytes}
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
