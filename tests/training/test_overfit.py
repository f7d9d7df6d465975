"""The whole detector learns: it fits a few images almost perfectly, boxes included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from frcnn.config import load_config
from frcnn.training.trainer import Trainer

SIDE, CELL = 128, 64
OPTIONS = """
    image.min_size=[128] image.max_size=128 image.canvas_aspects=[1.0] augment.horizontal_flip=0
    backbone.name=resnet18 backbone.norm=gn fpn.channels=48 anchors.sizes=[16,32,64,128,256]
    rpn.pre_nms_train=200 rpn.post_nms_train=100 rpn.pre_nms_test=100 rpn.post_nms_test=50
    roi_head.samples=64 roi_head.positive_fraction=0.5 roi_head.fc_channels=128
    optimizer.learning_rate=0.025 optimizer.base_batch_size=4 optimizer.warmup_steps=20 optimizer.schedule=cosine
    optimizer.clip_norm=10 optimizer.weight_decay=0
    training.batch_size=4 training.epochs=160 training.evaluate_every=null
"""


def draw_images(folder: Path) -> None:
    """Four noisy images with three objects of two classes each, each object in its own quadrant."""
    rng = np.random.default_rng(5)
    (folder / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number in range(1, 5):
        noise = rng.integers(90, 160, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((SIDE, SIDE))
        draw = ImageDraw.Draw(image)
        for left, top in [(0, 0), (CELL, 0), (0, CELL)]:
            width, height = (int(side) for side in rng.integers(36, 56, 2))
            x, y = left + int(rng.integers(CELL - width)), top + int(rng.integers(CELL - height))
            category = int(rng.integers(1, 3))
            corners = (x, y, x + width - 1, y + height - 1)
            if category == 1:
                draw.rectangle(corners, fill=(220, 40, 40))
            else:
                draw.ellipse(corners, fill=(40, 60, 220))
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **box})
        image.save(folder / "train" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": 1, "name": "rectangle"}, {"id": 2, "name": "ellipse"}]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(instances))


@pytest.mark.parametrize(
    "changes",
    [
        "",
        "roi_head.cascade=[0.5,0.6,0.7] roi_head.box_loss=giou training.epochs=150",
    ],
    ids=["default", "cascade and giou"],
)
def test_a_few_images_are_fitted(tmp_path: Path, changes: str) -> None:
    data = tmp_path / "data"
    draw_images(data)
    same = [
        f"data.validation.images={data / 'train'}",
        f"data.validation.annotations={data / 'annotations' / 'instances_train.json'}",
    ]
    options = [f"data.root={data}", f"output={tmp_path / 'run'}", *same, *OPTIONS.split(), *changes.split()]
    model = Trainer(load_config(overrides=options)).run()
    assert json.loads((model / "metrics.json").read_text())["AP"] >= 0.95
