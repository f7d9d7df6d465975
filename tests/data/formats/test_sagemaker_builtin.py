"""Inputs of SageMaker's own detection algorithms. All images are 100 x 50 pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.formats.sagemaker_builtin import sagemaker_to_coco
from frcnn.errors import UserError


def entry(file: str, *boxes: tuple[Any, ...], categories: dict[int, str] | None = None, **more: Any) -> dict[str, Any]:
    sides = ("class_id", "left", "top", "width", "height")
    return {
        "file": file,
        "image_size": [{"width": 100, "height": 50, "depth": 3}],
        "annotations": [dict(zip(sides, box, strict=True)) for box in boxes],
        "categories": [{"class_id": class_id, "name": name} for class_id, name in (categories or {}).items()],
        **more,
    }


@pytest.fixture
def builtin(tmp_path: Path, make_images: Any) -> Any:
    """Writes train_annotation/*.json beside train/a.jpg and b.jpg."""

    def write(**files: Any) -> Path:
        make_images(tmp_path / "train", "a.jpg", "b.jpg")
        (tmp_path / "train_annotation").mkdir()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / "train_annotation" / f"{name}.json").write_text(text)
        return tmp_path / "train_annotation"

    return write


def test_folder_of_the_builtin_algorithm(builtin: Any, tmp_path: Path) -> None:
    conversion = sagemaker_to_coco(
        builtin(
            a=entry("a.jpg", (0, 11, 13, 20, 8), (2, 1, 2, 3, 4), categories={0: "dog", 2: "bone"}),
            b=entry("b.jpg", categories={0: "dog", 1: "cat"}),
        )
    )
    assert conversion.tables == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 2, "file_name": "b.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 1, "category_id": 0, "image_id": 1, "bbox": [11, 13, 20, 8], "area": 160, "iscrowd": 0},
            {"id": 2, "category_id": 2, "image_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        ],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "bone"}],
    }
    assert conversion.images == tmp_path / "train"
    assert conversion.report.lines() == []


def test_a_single_file(builtin: Any, rows: Any) -> None:
    folder = builtin(a=entry("a.jpg", (0, 1, 2, 3, 4), categories={0: "dog"}), b="not read")
    assert rows(sagemaker_to_coco(folder / "a.json")) == [("a.jpg", "dog", [1, 2, 3, 4])]


def test_damaged_files_are_counted(builtin: Any, rows: Any, counts: Any) -> None:
    conversion = sagemaker_to_coco(
        builtin(
            a=entry("a.jpg", (0, 1, 2, 3, 4), (0, "x", 2, 3, 4), (5, 1, 2, 3, 4), categories={0: "dog"}, image_size=[]),
            broken='{"file": ',
            foreign={"images": []},
            gone=entry("gone.jpg", (0, 1, 2, 3, 4)),
        )
    )
    assert rows(conversion) == [("a.jpg", "dog", [1, 2, 3, 4]), ("a.jpg", "class 5", [1, 2, 3, 4])]
    assert counts(conversion) == {
        "missing or zero image sizes, read from the image": 1,
        "annotations without class_id, left, top, width and height": 1,
        "files that are not annotations of the built-in algorithm": 2,
        "annotations whose image is missing": 1,
        "classes without a name, named by their id (give names with --classes)": 1,
    }


def test_files_that_disagree_on_class_ids_are_matched_by_name(builtin: Any, rows: Any) -> None:
    conversion = sagemaker_to_coco(
        builtin(
            a=entry("a.jpg", (0, 1, 2, 3, 4), (1, 5, 5, 3, 4), categories={0: "dog", 1: "cat"}),
            b=entry("b.jpg", (0, 1, 2, 3, 4), (1, 5, 5, 3, 4), categories={0: "cat", 1: "dog"}),
        )
    )
    assert [name for _, name, _ in rows(conversion)] == ["dog", "cat", "cat", "dog"]
    assert len(conversion.tables["categories"]) == 2


@pytest.fixture
def jumpstart(tmp_path: Path, make_images: Any) -> Any:
    """Writes annotations.json beside images/abc.jpg and def.jpg."""

    def write(*annotations: Any, images: list[Any] | None = None) -> Path:
        make_images(tmp_path / "images", "abc.jpg", "def.jpg")
        names = enumerate(("abc.jpg", "def.jpg"), start=1)
        default = [{"file_name": name, "height": 50, "width": 100, "id": number} for number, name in names]
        content = {"images": default if images is None else images, "annotations": annotations}
        (tmp_path / "annotations.json").write_text(json.dumps(content))
        return tmp_path

    return write


def box(image_id: Any, category_id: Any, *corners: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(corners)}


def test_corner_boxes_of_jumpstart(jumpstart: Any, rows: Any, counts: Any) -> None:
    folder = jumpstart(box(1, 0, 10, 5, 30, 25), box(2, 3, 99, 49, 100, 50), box(2, 3, 30, 25, 10, 5))
    expected = [("abc.jpg", "class 0", [10, 5, 20, 20]), ("def.jpg", "class 3", [99, 49, 1, 1])]
    conversion = sagemaker_to_coco(folder)
    assert rows(conversion) == [*expected, ("def.jpg", "class 3", [10, 5, 20, 20])]
    assert counts(conversion) == {
        "boxes with swapped corners": 1,
        "classes without a name, named by their id (give names with --classes)": 2,
    }
    assert conversion.images == folder / "images"
    named = sagemaker_to_coco(folder / "annotations.json", classes=["a", "b", "c", "d"])
    assert [name for _, name, _ in rows(named)] == ["a", "d", "d"]
    assert [category["id"] for category in named.tables["categories"]] == [0, 1, 2, 3]


def test_damaged_annotations_of_jumpstart_are_counted(jumpstart: Any, rows: Any, counts: Any) -> None:
    images = [
        {"file_name": "images/abc.jpg", "id": "1"},
        {"file_name": "gone.jpg", "id": 2},
        {"id": 3},
        "text",
    ]
    folder = jumpstart(box(1, 0, 10, 5, 30, 25), box(2, 0, 1, 1, 2, 2), box(1, 0, 1, 1), None, images=images)
    conversion = sagemaker_to_coco(folder)
    assert rows(conversion) == [("abc.jpg", "class 0", [10, 5, 20, 20])]
    assert counts(conversion) == {
        "missing or zero image sizes, read from the image": 1,
        "images whose file is missing": 1,
        "images without id and file_name": 2,
        "annotations of images that are not listed or were skipped": 1,
        "annotations without image_id, category_id and bbox": 2,
        "classes without a name, named by their id (give names with --classes)": 1,
    }


def test_width_and_height_instead_of_corners_are_refused(jumpstart: Any) -> None:
    boxes = [box(1, 0, 60, 20, 30, 25), box(1, 0, 50, 30, 10, 10), box(2, 0, 70, 5, 20, 20), box(2, 0, 1, 1, 9, 9)]
    with pytest.raises(UserError, match=r"in 3 of 4 boxes .*seem to be x, y, width, height"):
        sagemaker_to_coco(jumpstart(*boxes))


def test_missing_inputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist; give a folder of JSON files"):
        sagemaker_to_coco(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no JSON files"):
        sagemaker_to_coco(tmp_path)
    (tmp_path / "annotations.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"no images in .*; give the folder with the images with --images"):
        sagemaker_to_coco(tmp_path)
