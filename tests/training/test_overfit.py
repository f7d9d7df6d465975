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


def draw_images(folder: Path, with_ellipses: int = 4) -> None:
    """Four noisy images with three objects of two classes each, each object in its own quadrant.

    Only the first ``with_ellipses`` images have objects of the second class.
    """
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
            category = min(int(rng.integers(1, 3)), 2 if number <= with_ellipses else 1)
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
        "optimizer.name=adamw optimizer.learning_rate=0.001 optimizer.weight_decay=0.05",
    ],
    ids=["default", "cascade and giou", "adamw"],
)
def test_a_few_images_are_fitted(tmp_path: Path, changes: str) -> None:
    draw_images(tmp_path / "data")
    assert fitted_ap(tmp_path, *changes.split()) >= 0.95


def test_a_few_images_are_fitted_while_those_of_a_rare_class_are_repeated(tmp_path: Path) -> None:
    draw_images(tmp_path / "data", with_ellipses=1)
    # The one image with ellipses is seen sqrt(1 / 0.25) = 2 times an epoch, which is thus 5 images long.
    assert fitted_ap(tmp_path, "data.repeat_threshold=1", "training.epochs=130") >= 0.95


def fitted_ap(folder: Path, *changes: str) -> float:
    """Train on the images of ``folder/data``; AP on the same images."""
    data = folder / "data"
    same = [
        f"data.validation.images={data / 'train'}",
        f"data.validation.annotations={data / 'annotations' / 'instances_train.json'}",
    ]
    options = [f"data.root={data}", f"output={folder / 'run'}", *same, *OPTIONS.split(), *changes]
    model = Trainer(load_config(overrides=options)).run()
    return json.loads((model / "metrics.json").read_text())["AP"]
