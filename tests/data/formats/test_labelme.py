"""Labelme files with all types of shapes, against boxes computed by hand. All images are 100 x 50 pixels."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.formats.labelme import labelme_to_coco
from frcnn.errors import UserError


def shape(
    kind: str | None, *points: tuple[float, float], label: Any = "dog", group: int | None = None
) -> dict[str, Any]:
    return {"label": label, "points": [list(p) for p in points], "group_id": group, "shape_type": kind, "flags": {}}


def document(*shapes: Any, path: Any = "a.jpg", data: str | None = None, **more: Any) -> dict[str, Any]:
    sizes = {"imageHeight": 50, "imageWidth": 100}
    return {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": data, **sizes, **more}


DOG = shape("rectangle", (10, 5), (30, 25))
DOG_ROW = ("a.jpg", "dog", [10, 5, 20, 20])


@pytest.fixture
def write(tmp_path: Path, make_images: Any) -> Any:
    """Writes JSON files, and a.jpg beside them."""

    def of(files: dict[str, Any], images: tuple[str, ...] = ("a.jpg",)) -> Path:
        make_images(tmp_path, *images)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return of


@pytest.mark.parametrize(
    ("one", "box"),
    [
        (shape("rectangle", (30, 25), (10, 5)), [10, 5, 20, 20]),
        (shape("rectangle", (10, 5), (30, 5), (30, 25), (10, 25)), [10, 5, 20, 20]),
        (shape("polygon", (10, 5), (30, 7.5), (12, 25)), [10, 5, 20, 20]),
        (shape(None, (10, 5), (30, 7.5), (12, 25)), [10, 5, 20, 20]),
        (shape("circle", (50, 25), (53, 29)), [45, 20, 10, 10]),  # the radius is 5
        (shape("oriented_rectangle", (10, 15), (20, 5), (30, 15), (20, 25)), [10, 5, 20, 20]),
        (shape("mask", (10, 5), (30, 25)) | {"mask": "iVBORw0KGgo="}, [10, 5, 20, 20]),
    ],
)
def test_boxes_of_shapes(write: Any, rows: Any, one: dict[str, Any], box: list[float]) -> None:
    conversion = labelme_to_coco(write({"a.json": document(one)}))
    assert rows(conversion) == [("a.jpg", "dog", box)]
    assert conversion.tables["images"] == [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}]
    assert conversion.report.lines() == []


def test_shapes_without_a_box_are_counted(write: Any, rows: Any, counts: Any) -> None:
    others = [
        shape("point", (1, 1)),
        shape("line", (1, 1), (9, 9)),
        shape("linestrip", (1, 1), (9, 9), (10, 1)),
        shape("points", (1, 1), (9, 9)),
        shape("polygon", (1, 1), (9, 9)),
        shape("circle", (1, 1)),
        shape("rectangle", (float("nan"), 1), (9, 9)),
        shape("rectangle", (5, 5), (5, 9)),
        shape("spline", (1, 1), (9, 9)),
        shape("rectangle", (1, 1), (9, 9), label=None),
        DOG | {"points": "10 5 30 25"},
        "dog",
    ]
    conversion = labelme_to_coco(write({"a.json": document(*others, DOG)}))
    assert rows(conversion) == [DOG_ROW]
    assert counts(conversion) == {
        "shapes of type point, which has no area": 1,
        "shapes of type line, which has no area": 1,
        "shapes of type linestrip, which has no area": 1,
        "shapes of type points, which has no area": 1,
        "shapes without usable points": 5,
        "boxes without width or height": 1,
        "objects without a class name": 1,
        "shapes that are not JSON objects": 1,
    }


def test_groups_are_one_object(write: Any, rows: Any, counts: Any) -> None:
    left, right = shape("rectangle", (10, 5), (20, 25), group=1), shape("rectangle", (25, 10), (30, 12), group=1)
    cat = shape("rectangle", (1, 1), (3, 3), label="cat", group=1)
    conversion = labelme_to_coco(write({"a.json": document(left, cat, right)}))
    assert rows(conversion) == [DOG_ROW, ("a.jpg", "cat", [1, 1, 2, 2])]
    assert counts(conversion) == {"shapes with the label and group of another, joined to one object": 1}


@pytest.mark.parametrize(
    "path", ["a.jpg", "..\\photos\\a.jpg", "C:\\Users\\x\\a.jpg", "../images/a.jpg", "x.png", None, 7, ""]
)
def test_image_paths(write: Any, rows: Any, path: Any) -> None:
    assert rows(labelme_to_coco(write({"a.json": document(DOG, path=path)}))) == [DOG_ROW]


def test_images_beside_their_files_in_subfolders(write: Any, rows: Any) -> None:
    files = {"one/a.json": document(DOG), "two/a.json": document(DOG), "two/._a.json": "\0"}
    conversion = labelme_to_coco(write(files, images=("one/a.jpg", "two/a.jpg", "a.jpg")))
    assert [file for file, *_ in rows(conversion)] == ["one/a.jpg", "two/a.jpg"]


def test_images_in_another_folder(write: Any, tmp_path: Path, make_images: Any, rows: Any) -> None:
    folder = write({"json/a.json": document(DOG)}) / "json"
    make_images(tmp_path / "images", "a.jpg")
    conversion = labelme_to_coco(folder, images=tmp_path / "images")
    assert (rows(conversion), conversion.images) == ([DOG_ROW], tmp_path / "images")


def test_embedded_images(write: Any, tmp_path: Path, make_images: Any, rows: Any, counts: Any) -> None:
    data = base64.b64encode((make_images(tmp_path / "x", "a.jpg") / "a.jpg").read_bytes()).decode()
    sizes = {"imageHeight": 0, "imageWidth": None}
    folder = write({"json/b.json": document(DOG, path="b.JPG", data=data, **sizes)}) / "json"
    with pytest.raises(UserError, match=r"whose image is missing .*it is embedded: use --extract-images"):
        labelme_to_coco(folder)
    conversion = labelme_to_coco(folder, extract_images=True)
    assert rows(conversion) == [("b.JPG", "dog", [10, 5, 20, 20])]
    assert (folder / "b.JPG").read_bytes() == (tmp_path / "x" / "a.jpg").read_bytes()
    assert (conversion.tables["images"][0]["width"], conversion.tables["images"][0]["height"]) == (100, 50)
    assert counts(conversion) == {
        "embedded images written to files": 1,
        "missing or zero image sizes, read from the image": 1,
    }


@pytest.mark.parametrize("data", ["not base64!", base64.b64encode(b"not an image").decode(), "", 7])
def test_broken_embedded_images_leave_no_file(write: Any, rows: Any, data: Any) -> None:
    folder = write({"a.json": document(DOG), "b.json": document(DOG, path="b.jpg", data=data)})
    assert rows(labelme_to_coco(folder, extract_images=True)) == [DOG_ROW]
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg", "a.json", "b.json"]


def test_other_json_files_are_counted(write: Any, rows: Any) -> None:
    files = {"a.json": "\ufeff" + json.dumps(document(DOG)), "coco.json": {"images": []}, "broken.json": "{"}
    conversion = labelme_to_coco(write(files))
    assert rows(conversion) == [DOG_ROW]
    (finding,) = conversion.report.skipped.values()
    assert finding.count == 2
    assert "broken.json is not valid JSON" in finding.examples[0]
    assert finding.examples[1] == "coco.json has no list 'shapes'"


def test_a_single_file_and_classes(write: Any) -> None:
    folder = write({"a.json": document(DOG), "b.json": document(DOG)})
    tables = labelme_to_coco(folder / "a.json", classes=["cat", "dog"]).tables
    assert [annotation["category_id"] for annotation in tables["annotations"]] == [2]
    with pytest.raises(UserError, match="shape 1: class 'dog' is not one of cat"):
        labelme_to_coco(folder, classes=["cat"])


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no JSON files"):
        labelme_to_coco(tmp_path)
