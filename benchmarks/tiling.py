"""Recall of small objects in large images, with and without tiles.

    python benchmarks/tiling.py --json tiling.json

Draws images of 4000 x 3000 pixels with objects of 20 pixels, cuts the training images with `frcnn tile`, trains a small
model on the tiles, and prints the recall of the validation images at IoU 0.5 and a score of 0.5: resized as a whole to
the size of the tiles and to COCO's usual 800 x 1333, and in tiles. A few minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from frcnn.config import load_config
from frcnn.data.coco import Index, find_split, load_index
from frcnn.data.tile_dataset import TileOptions, tile_split
from frcnn.data.tiles import DEFAULT_OVERLAP
from frcnn.inference import Detections, Detector
from frcnn.tiling import TiledDetector, Tiling
from frcnn.training.trainer import Trainer

WIDTH, HEIGHT, SIDE = 4000, 3000, 20  # pixels
OBJECTS = 100  # of an image
CLASSES = ("disc", "square")
SCORE, IOU = 0.5, 0.5
TILE = 256
RECIPE = """
    image.min_size=[256] image.max_size=256 image.canvas_aspects=[1.0]
    backbone.name=resnet18 backbone.norm=gn fpn.channels=32 anchors.sizes=[16,32,64,128,256]
    rpn.pre_nms_train=200 rpn.post_nms_train=100 rpn.pre_nms_test=1000 rpn.post_nms_test=300
    roi_head.samples=32 roi_head.fc_channels=128 roi_head.max_detections=300
    optimizer.learning_rate=0.02 optimizer.base_batch_size=4 optimizer.schedule=cosine optimizer.warmup_steps=30
    optimizer.clip_norm=10 training.batch_size=4 training.evaluate_every=null training.log_every=20
"""


def draw_dataset(folder: Path, split: str, images: int, seed: int) -> None:
    """A split of images with noise and small discs and squares, and its COCO file."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    (folder / split).mkdir(parents=True)
    for image_id in range(1, images + 1):
        coarse = Image.fromarray(rng.integers(60, 150, (HEIGHT // 50, WIDTH // 50, 3), np.uint8))
        image = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        cells = rng.permutation((WIDTH // 50) * (HEIGHT // 50))[:OBJECTS]
        for cell in cells.tolist():
            x = 50 * (cell % (WIDTH // 50)) + int(rng.integers(5, 25))
            y = 50 * (cell // (WIDTH // 50)) + int(rng.integers(5, 25))
            label = int(rng.integers(2))
            box = (x, y, x + SIDE - 1, y + SIDE - 1)
            color = tuple(rng.integers(190, 256, 3).tolist())
            (draw.ellipse if label == 0 else draw.rectangle)(box, fill=color)
            tables["annotations"].append(
                {
                    "id": len(tables["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x, y, SIDE, SIDE],
                    "area": SIDE * SIDE,
                    "iscrowd": 0,
                }
            )
        name = f"{image_id:03d}.jpg"
        image.save(folder / split / name, quality=92)
        tables["images"].append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps({**tables, "categories": categories}))


def recall(index: Index, results: Mapping[int, Detections]) -> float:
    """Share of the objects that a detection of their class covers; each detection covers one."""
    from frcnn.boxes import iou

    hits = total = 0
    for record in index.images:
        found = results[record.image_id]
        sure = found.scores >= SCORE
        for label in range(1, len(CLASSES) + 1):
            objects, boxes = record.boxes[record.labels == label], found.boxes[sure & (found.labels == label)]
            total += len(objects)
            if len(objects) and len(boxes):
                ious = iou(objects, boxes).numpy()
                for _ in range(min(ious.shape)):
                    row, column = np.unravel_index(np.argmax(ious), ious.shape)
                    if ious[row, column] < IOU:
                        break
                    hits += 1
                    ious[row], ious[:, column] = -1, -1
    return hits / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2, help="training images; half as many for validation")
    parser.add_argument("--epochs", type=float, default=6, help="over the tiles with objects")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder, tiles = Path(temporary) / "large", Path(temporary) / "tiles"
        draw_dataset(folder, "train", arguments.images, seed=0)
        draw_dataset(folder, "val", max(arguments.images // 2, 1), seed=1)
        index = load_index(folder / "train", folder / "annotations" / "instances_train.json")
        options = TileOptions(TILE, DEFAULT_OVERLAP, min_visible=0.4, empty_share=0.0)
        summary = tile_split(index, tiles / "train", tiles / "annotations" / "instances_train.json", options)
        print("\n".join(summary.lines()))
        overrides = [*RECIPE.split(), f"data.root={tiles}", f"output={tiles / 'run'}"]
        config = load_config(overrides=[*overrides, f"training.epochs={arguments.epochs}"])
        detector = Detector.load(Trainer(config).run())

        split = find_split(load_config(overrides=[f"data.root={folder}"]).data, "validation")
        validation = load_index(*split)
        usual = detector.config.model_copy(
            update={"image": detector.config.image.model_copy(update={"min_size": (800,), "max_size": 1333})}
        )
        whole = Detector(detector.model, usual, detector.class_names, detector.category_ids)
        rows = {
            f"whole, resized to {TILE} pixels": recall(validation, detector.detect_index(validation)),
            "whole, resized to 800 x 1333": recall(validation, whole.detect_index(validation)),
            f"--tile {TILE} --overlap {DEFAULT_OVERLAP}": recall(
                validation, TiledDetector(detector, Tiling(TILE, DEFAULT_OVERLAP)).detect_index(validation)
            ),
        }
    print(f"\n| {len(validation.images)} images of {WIDTH} x {HEIGHT}, objects of {SIDE} pixels | recall |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.3f} |")
    if arguments.json:
        document = {"recall": rows, "tiles": summary._asdict()}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
