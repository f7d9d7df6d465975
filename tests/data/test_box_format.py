"""Boxes as corners or as fractions of the image's size: refused, unless an option says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frcnn.data.coco import Index, load_index
from frcnn.errors import UserError


def box(number: int, bbox: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": bbox, **more}


def load(folder: Path, annotations: list[Any], **options: Any) -> Index:
    tables = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "ant"}],
    }
    (folder / "instances.json").write_text(json.dumps(tables))
    return load_index(folder, folder / "instances.json", require_images=False, **options)


def grid(size: int = 20, step: int = 17) -> list[tuple[float, ...]]:
    """Boxes all over an image of 100 x 80, as (x, y, width, height)."""
    return [(x, y, size, size - 4) for x in range(0, 100 - size, step) for y in range(0, 80 - size, step)]


def test_corner_boxes_are_refused_and_read(tmp_path: Path) -> None:
    plain = load(tmp_path, [box(number, bbox=bbox) for number, bbox in enumerate(grid())])
    corners = [box(number, bbox=(x, y, x + width, y + height)) for number, (x, y, width, height) in enumerate(grid())]
    with pytest.raises(
        UserError,
        match=r"instances.json: \d+ of 20 boxes extend beyond their image as \(x, y, width, height\) and fit as "
        r"corners \(x1, y1, x2, y2\); set data.box_format=xyxy \(evaluate and check-dataset: --box-format xyxy\)",
    ):
        load(tmp_path, corners)
    np.testing.assert_array_equal(load(tmp_path, corners, box_format="xyxy").images[0].boxes, plain.images[0].boxes)
    assert load(tmp_path, corners, box_format="xywh").summary.notes["clipped_boxes"][0] > 0
    with pytest.raises(UserError, match=r"data.box_format is 'xyxy', but \d+ of 20 boxes have a second corner left of"):
        load(tmp_path, [box(number, bbox=bbox) for number, bbox in enumerate(grid())], box_format="xyxy")


def test_normalized_boxes_are_refused_and_read(tmp_path: Path) -> None:
    plain = load(tmp_path, [box(number, bbox=bbox) for number, bbox in enumerate(grid())])
    normalized = [
        box(number, bbox=(x / 100, y / 80, width / 100, height / 80), area=width * height / 8000)
        for number, (x, y, width, height) in enumerate(grid())
    ]
    with pytest.raises(
        UserError, match=r"the numbers of 20 of 20 boxes are between 0 and 1, .*set data.box_format=normalized_xywh"
    ):
        load(tmp_path, normalized)
    record = load(tmp_path, normalized, box_format="normalized_xywh").images[0]
    np.testing.assert_allclose(record.boxes, plain.images[0].boxes, rtol=1e-6)
    np.testing.assert_allclose(record.areas, plain.images[0].areas, rtol=1e-6)
    with pytest.raises(
        UserError, match=r"data.box_format is 'normalized_xywh', but 20 of 20 boxes have numbers above 2"
    ):
        load(tmp_path, [box(number, bbox=bbox) for number, bbox in enumerate(grid())], box_format="normalized_xywh")


def test_normalized_corners_are_refused(tmp_path: Path) -> None:
    corners = [
        box(number, bbox=(x / 100, y / 80, (x + width) / 100, (y + height) / 80))
        for number, (x, y, width, height) in enumerate(grid())
    ]
    with pytest.raises(UserError, match=r"set data.box_format=normalized_xywh"):
        load(tmp_path, corners)
    with pytest.raises(UserError, match=r"normalized boxes extend .* fit as corners .*, which no option reads"):
        load(tmp_path, corners, box_format="normalized_xywh")


def test_derived_boxes_are_pixels_in_every_format(tmp_path: Path) -> None:
    polygon = [[10, 20, 40, 20, 40, 60]]
    for box_format, bbox in (("xyxy", (1, 2, 4, 6)), ("normalized_xywh", (0.01, 0.025, 0.03, 0.05))):
        annotations = [box(1, bbox=bbox), box(2, bbox=None, segmentation=polygon)]
        boxes = load(tmp_path, annotations, box_format=box_format).images[0].boxes
        np.testing.assert_allclose(boxes, [[1, 2, 4, 6], [10, 20, 40, 60]], rtol=1e-6)


def test_sloppy_and_large_boxes_are_not_taken_for_corners(tmp_path: Path) -> None:
    frames = [(0, 0, 100, 80), (1, 1, 100, 80), (0.4, 0.3, 99.6, 79.7), (2, 2, 97, 77), (3, 1, 96, 78)]
    assert len(load(tmp_path, [box(number, bbox=bbox) for number, bbox in enumerate(frames)]).images[0].boxes) == 5
    edges = [(x, y, 30, 30) for x in (60, 75, 80) for y in (40, 55, 60)]  # a third extend over the edge by 5 or 10
    assert len(load(tmp_path, [box(number, bbox=bbox) for number, bbox in enumerate(edges)]).images[0].boxes) == 9
