"""VOC conversion: boxes computed by hand from 1-based inclusive corners, and malformed files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from frcnn.cli import main
from frcnn.data.voc import voc_to_coco
from frcnn.errors import UserError


def write(folder: Path, stem: str, *objects: tuple[str, int, int, int, int, int]) -> None:
    folder.mkdir(exist_ok=True)
    found = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, difficult, x1, y1, x2, y2 in objects
    )
    size = "<size><width>20</width><height>10</height><depth>3</depth></size>"
    (folder / f"{stem}.xml").write_text(f"<annotation><filename>{stem}.jpg</filename>{size}{found}</annotation>")


def test_corners_are_converted_to_boxes(tmp_path: Path) -> None:
    write(tmp_path, "a", ("dog", 0, 1, 1, 1, 1), ("cat", 1, 3, 2, 20, 10))
    write(tmp_path, "b")
    assert voc_to_coco(tmp_path) == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 20, "height": 10},
            {"id": 2, "file_name": "b.jpg", "width": 20, "height": 10},
        ],
        "annotations": [
            {"id": 1, "category_id": 2, "image_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
            {"id": 2, "category_id": 1, "image_id": 1, "bbox": [2, 1, 18, 9], "area": 162, "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_verb_with_list_and_classes(tmp_path: Path) -> None:
    write(tmp_path / "xml", "a", ("dog", 0, 1, 1, 5, 5))
    write(tmp_path / "xml", "b", ("cat", 0, 1, 1, 5, 5))
    (tmp_path / "train.txt").write_text("b  1\n\n")
    command = [
        "voc-to-coco",
        str(tmp_path / "xml"),
        "--list",
        str(tmp_path / "train.txt"),
        "--classes",
        "dog, cat",
        "--out",
    ]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "new" / "out.json")])
    assert result.output == f"{tmp_path}/new/out.json: 1 images, 1 objects, 2 classes\n"
    tables = json.loads((tmp_path / "new" / "out.json").read_text())
    assert tables["annotations"][0]["category_id"] == 2
    assert tables["images"][0]["file_name"] == "b.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "is not valid XML"),
        ("<annotation/>", "<size> is missing"),
        (
            "<annotation><size><width>20</width><height>10</height></size></annotation>",
            "<filename> of <annotation> is missing or empty",
        ),
        (
            "<annotation><filename>a</filename><size><width>x</width><height>1</height></size></annotation>",
            "<width> is 'x'; expected a number",
        ),
        (
            "<annotation><filename>a</filename><size><width>2</width><height>1</height></size><object><name>n</name></object></annotation>",
            "an <object> has no <bndbox>",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "defines XML entities"),
    ],
)
def test_malformed_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=f"a.xml.*{message}"):
        voc_to_coco(tmp_path)


def test_missing_files_and_unknown_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no XML files; expected the Annotations folder of a VOC dataset"):
        voc_to_coco(tmp_path)
    write(tmp_path, "a", ("dog", 0, 1, 1, 5, 5))
    with pytest.raises(UserError, match=r"b\.xml cannot be read \(No such file or directory\)"):
        voc_to_coco(tmp_path, names=["b"])
    with pytest.raises(UserError, match="class 'dog' is not one of cat; add it"):
        voc_to_coco(tmp_path, classes=["cat"])
