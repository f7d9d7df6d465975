"""VOC conversion: boxes computed by hand from 1-based inclusive corners, and files as exporters leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.formats.voc import voc_to_coco
from frcnn.errors import UserError

SIZE = "<size><width>100</width><height>50</height><depth>3</depth></size>"
PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"


def element(name: str, *corners: float | str, difficult: int = 0) -> str:
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox>{PART}</object>"


def document(*objects: str, filename: str | None = "a.jpg", size: str = SIZE) -> str:
    file = "" if filename is None else f"<filename>{filename}</filename>"
    return f"<annotation><folder>x</folder>{file}{size}{''.join(objects)}</annotation>"


DOG = element("dog", 11, 6, 30, 25)  # 20 x 20 pixels
DOG_ROW = ("a.jpg", "dog", [10, 5, 20, 20])


@pytest.fixture
def dataset(tmp_path: Path, make_images: Callable[..., Path]) -> Callable[..., Path]:
    """Writes Annotations/*.xml and an image of 100 x 50 pixels for each."""

    def write(files: dict[str, str | bytes], images: tuple[str, ...] | None = None) -> Path:
        (tmp_path / "Annotations").mkdir()
        for name, text in files.items():
            content = text if isinstance(text, bytes) else text.encode()
            (tmp_path / "Annotations" / name).write_bytes(content)
        make_images(tmp_path / "JPEGImages", *(images or [f"{Path(name).stem}.jpg" for name in files]))
        return tmp_path

    return write


def test_corners_are_converted_to_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(document(element("dog", 1, 1, 1, 1), element("cat", 3, 2, 20, 10, difficult=1)))
    (tmp_path / "b.xml").write_text(document(filename="b.jpg"))
    conversion = voc_to_coco(tmp_path)
    assert conversion.tables == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 2, "file_name": "b.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 1, "category_id": 2, "image_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
            {"id": 2, "category_id": 1, "image_id": 1, "bbox": [2, 1, 18, 9], "area": 162, "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    assert conversion.images is None  # there are none
    assert conversion.report.lines() == ["note 1: difficult objects, converted to crowd regions (a.xml object 2)"]


@pytest.mark.parametrize(
    ("corners", "box", "kind"),
    [
        ((11.5, 6, 30, 25), [10.5, 5, 19.5, 20], None),
        ((30, 25, 11, 6), [10, 5, 20, 20], "boxes with swapped corners"),
        ((0, 6, 30, 25), [0, 5, 30, 20], "boxes that begin at pixel 0, although VOC counts from 1 (see --zero-based)"),
        ((91, 6, 140, 25), [90, 5, 10, 20], "boxes that extend over the image's edge, clipped"),
        (("nan", 6, 30, 25), None, "boxes with a coordinate that is not a usable number"),
        ((11, 6, "1e300", 25), None, "boxes with a coordinate that is not a usable number"),
        ((11, 6, "wide", 25), None, "objects without a usable <bndbox>"),
        ((111, 6, 130, 25), None, "boxes outside their image"),
    ],
)
def test_boxes(dataset: Any, rows: Any, counts: Any, corners: Any, box: Any, kind: str | None) -> None:
    conversion = voc_to_coco(dataset({"a.xml": document(element("cat", *corners), DOG)}))
    assert rows(conversion) == ([("a.jpg", "cat", box)] if box else []) + [DOG_ROW]
    assert counts(conversion) == ({kind: 1} if kind else {})


def test_zero_based_corners(dataset: Any, rows: Any) -> None:
    conversion = voc_to_coco(dataset({"a.xml": document(element("cat", 0, 5, 30, 25))}), zero_based=True)
    assert rows(conversion) == [("a.jpg", "cat", [0, 5, 30, 20])]


def test_polygon_instead_of_a_box(dataset: Any, rows: Any, counts: Any) -> None:
    polygon = "<polygon><x1>10</x1><y1>5</y1><x2>30</x2><y2>8</y2><x3>20</x3><y3>25</y3></polygon>"
    conversion = voc_to_coco(dataset({"a.xml": document(f"<object><name>dog</name>{polygon}</object>")}))
    assert (rows(conversion), counts(conversion)) == ([DOG_ROW], {"boxes derived from polygons": 1})


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>x</width><height>50</height></size>",
    ],
)
def test_sizes_are_read_from_the_image(dataset: Any, counts: Any, size: str) -> None:
    conversion = voc_to_coco(dataset({"a.xml": document(DOG, size=size)}))
    assert conversion.tables["images"] == [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}]
    assert counts(conversion) == {"missing or zero image sizes, read from the image": 1}


def test_size_without_an_image_is_left_to_training(tmp_path: Path, counts: Any) -> None:
    (tmp_path / "a.xml").write_text(document(DOG, size=""))
    conversion = voc_to_coco(tmp_path)
    assert conversion.tables["images"] == [{"id": 1, "file_name": "a.jpg"}]
    assert counts(conversion) == {"images without a size, which is then read from the image file": 1}


@pytest.mark.parametrize(
    "filename", ["C:\\photos\\old name.jpg", None, "", "a", "../../../etc/passwd", "b.jpg"], ids=repr
)
def test_wrong_file_names_are_matched_by_the_annotation_files_name(dataset: Any, rows: Any, filename: str) -> None:
    conversion = voc_to_coco(dataset({"a.xml": document(DOG, filename=filename)}, images=("a.jpg", "b.jpg")))
    assert rows(conversion) == [DOG_ROW]
    assert next(iter(conversion.report.repaired)).startswith("wrong or missing <filename>")


def test_copied_file_names_do_not_merge_images(dataset: Any, tmp_path: Path, rows: Any) -> None:
    files = {"a.xml": document(DOG), "b.xml": document(element("cat", 1, 1, 2, 2))}
    assert rows(voc_to_coco(dataset(files))) == [DOG_ROW, ("b.jpg", "cat", [0, 0, 2, 2])]
    for image in (tmp_path / "JPEGImages").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"a\.xml and .*b\.xml have the same <filename> 'a.jpg'; give --images"):
        voc_to_coco(tmp_path)


def test_encodings_suffixes_spaces_and_hidden_files(dataset: Any, rows: Any, counts: Any) -> None:
    text = document(DOG, filename="a é.JPG")
    files = {"a é.XML": b"\xef\xbb\xbf" + text.encode(), "b.xml": document(DOG, filename="b.jpg").encode("utf-16")}
    conversion = voc_to_coco(dataset({**files, "._a.xml": b"\0\5\26"}, images=("a é.JPG", "b.jpg", "c.jpg")))
    assert rows(conversion) == [("a é.JPG", "dog", [10, 5, 20, 20]), ("b.jpg", "dog", [10, 5, 20, 20])]
    assert counts(conversion) == {"images without an annotation file": 1}


@pytest.mark.parametrize(
    "text", [b"\xef\xbb\xbfb  1\r\n\r\n", b"b.jpg\n", b"images/b.jpg\n", "b\n".encode("utf-16")], ids=repr
)
def test_lists(dataset: Any, tmp_path: Path, rows: Any, text: bytes) -> None:
    files = {"a.xml": document(DOG), "b.xml": document(DOG, filename="b.jpg")}
    (tmp_path / "list.txt").write_bytes(text)
    conversion = voc_to_coco(dataset(files), list_file=tmp_path / "list.txt")
    assert rows(conversion) == [("b.jpg", "dog", [10, 5, 20, 20])]
    assert conversion.report.lines() == []


def test_listed_names_with_spaces_and_without_files(dataset: Any, tmp_path: Path, rows: Any, counts: Any) -> None:
    (tmp_path / "list.txt").write_text("a 1 \ngone\n")
    source = dataset({"a 1.xml": document(DOG, filename="a 1.jpg"), "a.xml": document(DOG)})
    conversion = voc_to_coco(source, list_file=tmp_path / "list.txt")
    assert rows(conversion) == [("a 1.jpg", "dog", [10, 5, 20, 20])]
    assert counts(conversion) == {"lines of the list without an annotation file": 1}
    (tmp_path / "list.txt").write_text("gone\n")
    with pytest.raises(UserError, match=r"no usable images; skipped 1: lines of the list .* \(gone\)"):
        voc_to_coco(source, list_file=tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "is not valid XML"),
        ("", "is not valid XML"),
        ("<html/>", "has no <filename>, <size> or <object>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "defines XML entities"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode("utf-16"), "defines XML entities"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is not valid XML"),
    ],
)
def test_files_that_are_not_annotations(dataset: Any, rows: Any, text: str, reason: str) -> None:
    conversion = voc_to_coco(dataset({"a.xml": document(DOG), "b.xml": text}))
    assert rows(conversion) == [DOG_ROW]
    (place,) = conversion.report.skipped["files that are not VOC annotations"].examples
    assert place.startswith(f"b.xml {reason}")


def test_classes(dataset: Any) -> None:
    source = dataset({"a.xml": document(DOG, element("cat", 1, 1, 5, 5), element(" dog\t", 1, 1, 6, 6))})
    tables = voc_to_coco(source, classes=["dog", "cow", "cat"]).tables
    assert [annotation["category_id"] for annotation in tables["annotations"]] == [1, 3, 1]
    assert [category["name"] for category in tables["categories"]] == ["dog", "cow", "cat"]
    with pytest.raises(UserError, match="object 1: class 'dog' is not one of cat; add it to --classes"):
        voc_to_coco(source, classes=["cat"])
    with pytest.raises(UserError, match="the classes cat, cat contain a name twice"):
        voc_to_coco(source, classes=["cat", "cat"])


def test_missing_inputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no XML files; expected the Annotations folder of a VOC dataset"):
        voc_to_coco(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        voc_to_coco(tmp_path / "nowhere")
    (tmp_path / "a.xml").write_text(document(DOG))
    with pytest.raises(UserError, match=r"option --images is .*nowhere, which is not a folder"):
        voc_to_coco(tmp_path, images=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"list.txt cannot be read \(No such file or directory\)"):
        voc_to_coco(tmp_path, list_file=tmp_path / "list.txt")


@pytest.mark.parametrize("images", ["JPEGImages", "images", "data"])
def test_images_beside_the_annotations(
    tmp_path: Path, make_images: Any, rows: Any, monkeypatch: pytest.MonkeyPatch, images: str
) -> None:
    """The name is in the file, as FiftyOne writes it, but without its suffix; the images are found from any folder."""
    make_images(tmp_path / images, "a.jpg", "unlabeled.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.xml").write_text(document(DOG, filename="a"))
    monkeypatch.chdir(tmp_path / "labels")
    conversion = voc_to_coco(Path("."))
    assert rows(conversion) == [DOG_ROW]
    assert conversion.images == tmp_path / images
    assert conversion.report.skipped["images without an annotation file"].examples == ["unlabeled.jpg"]


def test_cvat_counts_from_0(dataset: Any, rows: Any) -> None:
    """The box x 10, y 5, width 20, height 20 as Datumaro 1.13, which CVAT exports with, writes it."""
    cvat = element("dog", 10.0, 5.0, 30.0, 25.0)
    assert rows(voc_to_coco(dataset({"a.xml": document(cvat)}), zero_based=True)) == [DOG_ROW]
