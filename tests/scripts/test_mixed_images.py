"""benchmarks/mixed_images.py: boxes stay on their objects, in mosaics and where objects are pasted."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.data.coco import load_index

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "mixed_images.py"
COLORS = {1: (200, 0, 0), 2: (0, 0, 200)}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six gray images with a rectangle in the color of its class each."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "data"
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number in range(1, 7):
        pixels = np.full((60, 80, 3), 128, np.uint8)
        x, y, width, height = (int(value) for value in rng.integers([5, 5, 16, 16], [50, 30, 26, 26]))
        pixels[y : y + height, x : x + width] = COLORS[1 + number % 2]
        Image.fromarray(pixels).save(folder / "images" / "train" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1 + number % 2, **box})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def mix(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["mixed_images.py", *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


@pytest.mark.parametrize("method", ["mosaic", "paste"])
def test_boxes_stay_on_their_objects(dataset: Path, tmp_path: Path, mix: Callable[..., None], method: str) -> None:
    out = tmp_path / "mixed"
    before = {file: file.read_bytes() for file in dataset.rglob("*.*")}
    mix(dataset, out, "--method", method, "--copies", 5, "--share", 1)
    assert {file: file.read_bytes() for file in dataset.rglob("*.*")} == before
    index = load_index(out / "images", out / "instances.json")
    assert len(index.images) == 30
    for record in index.images:
        pixels = np.asarray(Image.open(record.path), np.int32)
        assert pixels.shape == (record.height, record.width, 3) == (60, 80, 3)
        for box, label in zip(record.boxes, record.labels, strict=True):
            left, top, right, bottom = np.round(box).astype(int)
            inner = pixels[top + 3 : bottom - 3, left + 3 : right - 3]
            hidden = (np.abs(inner - COLORS[int(label)]) > 40).any(axis=-1).mean() if inner.size else 0
            assert hidden <= (0 if method == "mosaic" else 0.5), f"{record.path.name} {box}"
    boxes = sum(len(record.boxes) for record in index.images)
    assert boxes > (10 if method == "mosaic" else 40)


def test_mistakes_are_one_sentence(dataset: Path, tmp_path: Path, mix: Callable[..., None]) -> None:
    options = ("--method", "paste", "--copies", 1)
    with pytest.raises(SystemExit, match=r"data\.root"):
        mix(tmp_path / "nowhere", tmp_path / "out", *options)
    with pytest.raises(SystemExit, match="exists; delete it"):
        mix(dataset, dataset, *options)
    (dataset / "images" / "train" / "3.png").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match=r"image .*3\.png cannot be read"):
        mix(dataset, tmp_path / "out", *options)
