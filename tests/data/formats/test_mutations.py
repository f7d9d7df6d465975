"""Damaged files of every format: one sentence for the user, or tables that load without a problem; nothing else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frcnn.data.coco import load_index
from frcnn.data.formats.builder import Conversion, to_json
from frcnn.data.formats.coco_json import clean_coco
from frcnn.data.formats.labelme import labelme_to_coco
from frcnn.data.formats.manifest import manifest_to_coco
from frcnn.data.formats.sagemaker_builtin import sagemaker_to_coco
from frcnn.data.formats.via import via_to_coco
from frcnn.data.formats.voc import voc_to_coco
from frcnn.data.formats.yolo import yolo_to_coco
from frcnn.data.split_dataset import split_dataset
from frcnn.errors import UserError

NESTED: Any = []
for _ in range(300):
    NESTED = [NESTED]
ODD: list[Any] = [
    *(None, True, -1, 0, 0.5, 7, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), [], {}, [[]], NESTED),
    *(
        "",
        " ",
        "x",
        "7",
        "nan",
        "1e999",
        "\0",
        "\ud800",
        "a\u2028b",
        "../../a.jpg",
        "x" * 5000,
        [1, 2],
        {"id": 1},
        "b.jpg",
    ),
]
ODD_JSON = [json.dumps(value) for value in ODD]  # as text, so that no two trees share a list
BOX = {"class_id": 0, "left": 10, "top": 5, "width": 20, "height": 20}
SIZE = [{"width": 100, "height": 50, "depth": 3}]

MANIFEST = [
    {
        "source-ref": "s3://b/a.jpg",
        "bb": {"image_size": SIZE, "annotations": [BOX, BOX | {"class_id": 1}]},
        "bb-metadata": {"class-map": {"0": "dog", "1": "cat"}, "type": "groundtruth/object-detection"},
        "check": 1,
        "check-metadata": {"class-name": "good", "type": "groundtruth/label-verification"},
    },
    {"source-ref": "s3://b/b.jpg", "bb-metadata": {"failure-reason": "x"}},
]
BUILTIN = {"file": "a.jpg", "image_size": SIZE, "annotations": [BOX], "categories": [{"class_id": 0, "name": "dog"}]}
JUMPSTART = {
    "images": [{"file_name": "a.jpg", "height": 50, "width": 100, "id": 1}],
    "annotations": [{"image_id": 1, "bbox": [10, 5, 30, 25], "category_id": 0}],
}
COCO: dict[str, list[Any]] = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50, "note": "x"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [50, 100], "counts": [505, 20, 4475]}},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": [[10, 5, 30, 5, 30, 25]]},
    ],
    "categories": [{"id": 0, "name": "all"}, {"id": 1, "name": "dog", "supercategory": "all"}],
}
COCO_OF_TWO = COCO | {"images": [*COCO["images"], {"id": 2, "file_name": "b.jpg"}]}
LABELME = {
    "shapes": [
        {"label": "dog", "points": [[10, 5], [30, 25]], "shape_type": "rectangle", "group_id": 1},
        {"label": "dog", "points": [[10, 5], [13, 9]], "shape_type": "circle", "group_id": 1},
        {"label": "cat", "points": [[10, 5], [30, 5], [30, 25]], "shape_type": "polygon"},
    ],
    "imagePath": "a.jpg",
    "imageData": "aGVsbG8=",
    "imageHeight": 50,
    "imageWidth": 100,
}
VIA_SHAPES: list[dict[str, Any]] = [
    {"name": "rect", "x": 10, "y": 5, "width": 20, "height": 20},
    {"name": "ellipse", "cx": 50, "cy": 25, "rx": 10, "ry": 5, "theta": 1},
    {"name": "polygon", "all_points_x": [10, 30, 12], "all_points_y": [5, 7, 25]},
]
VIA_2 = {
    "a.jpg1": {
        "filename": "a.jpg",
        "regions": [{"shape_attributes": shape, "region_attributes": {"type": "dog"}} for shape in VIA_SHAPES],
    }
}
VIA_3 = {
    "attribute": {"1": {"aname": "type", "type": 4, "options": {"0": "dog"}}},
    "file": {"1": {"fname": "a.jpg", "type": 2}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {"m": {"vid": "1", "xy": [2, 10, 5, 20, 20], "av": {"1": "0"}}},
}
YOLO = "path: .\ntrain: images\nval: [images]\nnames: {0: dog, 1: cat}\nkpt_shape: [1, 3]\n"
LABEL = "0 0.5 0.5 0.2 0.4\n1 0.1 0.2 0.5 0.2 0.5 0.8\n0 0.5 0.5 0.2 0.4 0.5 0.5 2\n"
VOC = (
    "<annotation><filename>a.jpg</filename><size><width>100</width><height>50</height></size>"
    "<object><name>dog</name><difficult>1</difficult>"
    "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object>"
    "<object><name>cat</name><polygon><x1>1</x1><y1>1</y1><x2>9</x2><y2>9</y2></polygon></object></annotation>"
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in ((tree, key), *places(tree[key]))]


@st.composite
def damaged_trees(draw: st.DrawFn, tree: Any) -> Any:
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        action = draw(st.sampled_from(["replace", "delete", "repeat"]))
        if action == "delete":
            del container[key]
        elif action == "repeat" and isinstance(container, list):
            container.append(container[key])
        else:
            container[key] = json.loads(draw(st.sampled_from(ODD_JSON)))
    return tree


@st.composite
def damaged_texts(draw: st.DrawFn, text: str) -> bytes:
    """Cut, with bytes inserted, or with a word replaced."""
    content = text.encode()
    action = draw(st.sampled_from(["cut", "insert", "replace"]))
    position = draw(st.integers(0, len(content)))
    if action == "cut":
        return content[:position]
    if action == "insert":
        return content[:position] + draw(st.binary(max_size=8)) + content[position:]
    words = [word for word in text.replace(">", " ").replace("<", " ").replace(",", " ").split() if word]
    new = draw(st.sampled_from([str(value) for value in ODD if value is not NESTED]))
    return text.replace(draw(st.sampled_from(words)), new).encode("utf-8", "surrogatepass")


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_lines(tree: Any) -> bytes:
    return "\n".join(json.dumps(entry) for entry in (tree if isinstance(tree, list) else [tree])).encode()


def via_csv() -> str:
    text = io.StringIO()
    rows = [["a.jpg", json.dumps(shape), json.dumps({"type": "dog"})] for shape in VIA_SHAPES]
    csv.writer(text).writerows([["filename", "region_shape_attributes", "region_attributes"], *rows])
    return text.getvalue()


CASES: dict[str, tuple[str, st.SearchStrategy[bytes], Callable[[Path], Conversion]]] = {
    "manifest": ("x.manifest", damaged_trees(MANIFEST).map(as_lines), lambda f: manifest_to_coco(f, skip_missing=True)),
    "manifest text": ("x.manifest", damaged_texts(as_lines(MANIFEST).decode()), manifest_to_coco),
    "builtin": ("x.json", damaged_trees(BUILTIN).map(as_json), sagemaker_to_coco),
    "jumpstart": ("annotations.json", damaged_trees(JUMPSTART).map(as_json), sagemaker_to_coco),
    "coco": ("x.json", damaged_trees(COCO).map(as_json), clean_coco),
    "coco with images": ("x.json", damaged_trees(COCO).map(as_json), lambda f: clean_coco(f, images=f.parent)),
    "coco shares": ("x.json", damaged_trees(COCO).map(as_json), lambda f: clean_coco(f, box_format="normalized_xywh")),
    "labelme": ("x.json", damaged_trees(LABELME).map(as_json), lambda f: labelme_to_coco(f, extract_images=True)),
    "labelme folder": ("x.json", damaged_texts(json.dumps(LABELME)), lambda f: labelme_to_coco(f.parent)),
    "via 2": ("x.json", damaged_trees(VIA_2).map(as_json), via_to_coco),
    "via 3": ("x.json", damaged_trees(VIA_3).map(as_json), via_to_coco),
    "via csv": ("x.csv", damaged_texts(via_csv()), via_to_coco),
    "yolo yaml": ("data.yaml", damaged_texts(YOLO), yolo_to_coco),
    "yolo labels": (
        "labels/a.txt",
        damaged_texts(LABEL),
        lambda f: yolo_to_coco(f.parent.parent, classes=["dog", "cat"]),
    ),
    "voc": ("a.xml", damaged_texts(VOC), lambda f: voc_to_coco(f.parent)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("data"), "a.jpg", "b.jpg", "images/a.jpg", "labels/placeholder.jpg")


@pytest.mark.parametrize("case", CASES)
def test_damaged_files(case: str, folder: Path) -> None:
    name, contents, convert = CASES[case]
    file = folder / name
    accepted: list[bytes] = []
    sentences: list[str] = []

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(contents)
    def run(content: bytes) -> None:
        file.write_bytes(content)
        if case == "yolo yaml":
            (folder / "labels" / "a.txt").write_text(LABEL)
        try:
            conversion = convert(file)
        except UserError as error:
            sentences.append(str(error))
            return
        accepted.append(content)
        assert all(len(line) < 2000 for line in conversion.report.lines())
        check(conversion, folder)

    try:
        run()
    finally:
        file.unlink(missing_ok=True)
    assert accepted, "no example was accepted, so that nothing was checked"
    assert max(map(len, sentences), default=0) < 2000


@settings(max_examples=100, deadline=None, database=None)
@given(damaged_trees(COCO_OF_TWO), st.booleans(), st.sampled_from([None, "note", "."]))
def test_damaged_files_are_divided_or_refused(tree: Any, stratify: bool, by: str | None) -> None:
    try:
        division = split_dataset(tree, {"train": 0.5, "val": 0.5}, by=by, stratify=stratify)
    except UserError:
        return
    assert sum(len(part["images"]) for part in division.tables.values()) == len(tree["images"])
    assert all(part["images"] for part in division.tables.values())


def check(conversion: Conversion, folder: Path) -> None:
    """The tables are strict JSON, and training finds nothing to complain about."""
    out = folder / "out" / "instances.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(to_json(conversion.tables))
    images = conversion.images or folder
    if any(not (images / image["file_name"]).is_file() for image in conversion.tables["images"]):
        assert conversion.images is None  # nothing was looked up
        return
    if conversion.tables["annotations"]:
        index = load_index(images, out, "error")
        boxes = sum(len(image.boxes) for image in index.images)
        assert boxes == len(conversion.tables["annotations"])


def test_deeply_nested_xml_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation>" + "<object>" * 50_000 + "</object>" * 50_000 + "</annotation>")
    with pytest.raises(UserError, match="no usable"):
        voc_to_coco(tmp_path)
