"""Cutting images and boxes: every pixel and object is where it should be, and what is lost is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frcnn.data.coco import load_index
from frcnn.data.tile_dataset import TileOptions, TileSummary, tile_split
from frcnn.data.tiles import tiles_of

WIDTH, HEIGHT = 300, 220
# x, y, width, height; crowd; area as annotated.
OBJECTS = [
    ([10, 10, 20, 20], 0, 200),  # in the first tile only
    ([70, 30, 40, 20], 0, 800),  # across a border: a part in each of two tiles
    ([0, 0, 300, 150], 1, 45000),
    ([20, 100, 260, 115], 0, 29900),  # larger than a tile
]


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.integers(32, 300),
    st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]),
    st.data(),
)
def test_small_objects_are_whole_in_a_tile(
    width: int, height: int, tile: int, overlap: float, data: st.DataObject
) -> None:
    tiles = tiles_of(width, height, tile, overlap)
    assert {(t.width, t.height) for t in tiles} == {(min(tile, width), min(tile, height))}
    assert all(t.x >= 0 and t.y >= 0 and t.x + t.width <= width and t.y + t.height <= height for t in tiles)
    side = max(int(tile * overlap), 1)
    x1 = data.draw(st.integers(0, max(width - side, 0)))
    y1 = data.draw(st.integers(0, max(height - side, 0)))
    x2, y2 = min(x1 + side, width), min(y1 + side, height)
    assert any(t.x <= x1 and x2 <= t.x + t.width and t.y <= y1 and y2 <= t.y + t.height for t in tiles)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """An image with the objects above, a small one, and one without objects; in folders."""
    rng = np.random.default_rng(0)
    for name, size in (("deep/large.png", (HEIGHT, WIDTH)), ("small.jpg", (40, 50)), ("none.png", (HEIGHT, WIDTH))):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "data" / name)
    boxes = [(1, *entry) for entry in OBJECTS] + [(2, [5, 5, 10, 10], 0, 100)]
    tables = {
        "images": [
            {"id": 1, "file_name": "deep/large.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "small.jpg", "width": 50, "height": 40},
            {"id": 3, "file_name": "none.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 4, "name": "cell"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 4, "bbox": box, "iscrowd": crowd, "area": area}
            for n, (image, box, crowd, area) in enumerate(boxes, start=1)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    return tmp_path


@pytest.fixture
def cut(dataset: Path) -> Callable[..., tuple[TileSummary, dict[str, Any]]]:
    def of(empty_share: float = 0.0) -> tuple[TileSummary, dict[str, Any]]:
        index = load_index(dataset / "data", dataset / "instances.json")
        out = dataset / "tiles.json"
        summary = tile_split(index, dataset / "tiles", out, TileOptions(100, 0.2, 0.4, empty_share))
        return summary, json.loads(out.read_text())

    return of


def test_pixels_and_boxes_of_a_tile_are_those_of_the_image(dataset: Path, cut: Callable[..., Any]) -> None:
    _, tables = cut()
    whole = np.asarray(Image.open(dataset / "data" / "deep" / "large.png"))
    tiles = {image["id"]: image for image in tables["images"]}
    for image in tables["images"]:
        if image["file_name"] == "small.jpg":
            continue
        x, y = map(int, image["file_name"].removesuffix(".png").split("_")[1:])
        pixels = np.asarray(Image.open(dataset / "tiles" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3) == (100, 100, 3)
        np.testing.assert_array_equal(pixels, whole[y : y + 100, x : x + 100])
    first = [entry for entry in tables["annotations"] if tiles[entry["image_id"]]["file_name"] == "deep/large_0_0.png"]
    assert [(entry["bbox"], entry["area"], entry["iscrowd"], entry["category_id"]) for entry in first] == [
        ([10, 10, 20, 20], 200, 0, 4),
        ([70, 30, 30, 20], 600, 0, 4),  # three quarters of it, and of its area
        ([0, 0, 100, 100], 10000, 1, 4),
    ]


def test_what_is_dropped_is_counted(cut: Callable[..., Any]) -> None:
    """Tiles begin at 0, 67, 133, 200 and at 0, 60, 120."""
    summary, tables = cut()
    counted = [0, 0]
    for x, y in ((x, y) for y in (0, 60, 120) for x in (0, 67, 133, 200)):
        for (bx, by, width, height), crowd, _ in OBJECTS:
            sides = min(bx + width, x + 100) - max(bx, x), min(by + height, y + 100) - max(by, y)
            if min(sides) > 0 and not crowd:
                counted[sides[0] * sides[1] < 0.4 * width * height] += 1
    assert (summary.boxes, summary.dropped) == (counted[0] + 1, counted[1])  # and the box of the small image
    assert (summary.images, summary.objects, summary.lost) == (3, 4, 1)
    assert any("1 objects are in no tile" in line for line in summary.lines())
    assert sum(entry["iscrowd"] for entry in tables["annotations"]) == 12  # in every tile
    assert (summary.tiles, summary.without_objects) == (12 + 1, 12 - 2)
    assert summary.left_out == 12


def test_the_share_of_empty_tiles_is_chosen(cut: Callable[..., Any]) -> None:
    assert (cut(1.0)[0].tiles, cut(1.0)[0].left_out) == (25, 0)
    some = cut(0.5)[0]
    assert 13 < some.tiles < 25
    assert some.tiles + some.left_out == 25


def test_small_images_are_copied_and_unreadable_ones_reported(dataset: Path, cut: Callable[..., Any]) -> None:
    (dataset / "data" / "none.png").write_bytes(b"not an image")
    summary, _ = cut()
    assert (dataset / "tiles" / "small.jpg").read_bytes() == (dataset / "data" / "small.jpg").read_bytes()
    assert summary.images == 2
    (reason,) = summary.unreadable
    assert "none.png" in reason


def test_tiles_load_as_a_dataset(dataset: Path, cut: Callable[..., Any]) -> None:
    cut()
    index = load_index(dataset / "tiles", dataset / "tiles.json", on_bad_annotation="error")
    assert index.class_names == ("cell",)
    assert len(index.images) == 13
