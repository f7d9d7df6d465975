"""YOLO datasets as their tools write them, against boxes computed by hand. All images are 100 x 50 pixels."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.formats.yolo import Listings, find_label_file, yolo_to_coco
from frcnn.errors import UserError

CENTERED = "0 0.5 0.5 0.2 0.4\n"  # 20 x 20 pixels around (50, 25)
CENTERED_BOX = [40, 15, 20, 20]


@pytest.fixture
def dataset(tmp_path: Path, make_images: Callable[..., Path]) -> Callable[..., Path]:
    """Writes images/train/a.jpg and b.jpg, label files and data.yaml, and returns the latter."""

    def write(labels: dict[str, str | bytes], yaml: str = "train: images/train\nnames: [cat, dog]\n") -> Path:
        make_images(tmp_path / "images" / "train", "a.jpg", "b.jpg")
        (tmp_path / "labels" / "train").mkdir(parents=True)
        for name, text in labels.items():
            (tmp_path / "labels" / "train" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path / "data.yaml"

    return write


def test_plain_dataset(dataset: Any, tmp_path: Path) -> None:
    conversion = yolo_to_coco(dataset({"a.txt": CENTERED + "1 0.05 0.1 0.1 0.2\n", "b.txt": "1 0.9 0.9 0.2 0.2"}))
    assert conversion.tables == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 2, "file_name": "b.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 1, "category_id": 0, "image_id": 1, "bbox": [40, 15, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "category_id": 1, "image_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 3, "category_id": 1, "image_id": 2, "bbox": [80, 40, 20, 10], "area": 200, "iscrowd": 0},
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    assert conversion.images == tmp_path / "images" / "train"
    assert conversion.report.lines() == []


def test_missing_and_empty_label_files_are_images_without_objects(dataset: Any, rows: Any, counts: Any) -> None:
    conversion = yolo_to_coco(dataset({"a.txt": CENTERED}))
    assert [image["file_name"] for image in conversion.tables["images"]] == ["a.jpg", "b.jpg"]
    assert rows(conversion) == [("a.jpg", "cat", CENTERED_BOX)]
    assert counts(conversion) == {"images without a label file, taken as images without objects": 1}
    (conversion.images.parent.parent / "labels" / "train" / "b.txt").touch()
    assert counts(yolo_to_coco(conversion.images.parent.parent / "data.yaml")) == {}


def test_no_label_file_at_all_is_refused(dataset: Any) -> None:
    with pytest.raises(UserError, match=r"none of the 2 images has a label file; expected for .*a\.jpg: .*a\.txt"):
        yolo_to_coco(dataset({}))


@pytest.mark.parametrize(
    ("row", "box", "kind"),
    [
        ("1 0.1 0.2 0.5 0.2 0.5 0.8", [10, 10, 40, 30], "polygons or oriented boxes, converted to upright boxes"),
        (
            "1 0.2 0.2 0.6 0.4 0.5 0.8 0.1 0.6",
            [10, 10, 50, 30],
            "polygons or oriented boxes, converted to upright boxes",
        ),
        ("1 0.5 0.5 0.2 0.4 0.93", CENTERED_BOX, "rows with a sixth value (confidence or track id), which is ignored"),
        ("1 0.5 0.5 0.2 0.4 0.4 0.3 2", CENTERED_BOX, "pose rows, of which the box is used"),
        ("1 .5 .5 .2 .4" + 17 * " 0.1 0.2 2", CENTERED_BOX, "pose rows, of which the box is used"),
        ("1.0 5e-1 0.5 0.2 0.4", CENTERED_BOX, None),
        ("nan 0.5 0.5 0.2 0.4", None, "rows that are neither a box, a polygon nor a pose"),
        ("1 0.5 0.5 0.2", None, "rows that are neither a box, a polygon nor a pose"),
        ("1 0.5 0.5 0.2 wide", None, "rows that are neither a box, a polygon nor a pose"),
        ("1 0.5 nan 0.2 0.4", None, "boxes with a coordinate that is not a usable number"),
        ("1 0.5 0.5 0.2 inf", None, "boxes with a coordinate that is not a usable number"),
        ("1 0.5 0.5 0 0.4", None, "boxes without width or height"),
        ("1 50 25 20 20", None, "boxes outside 0..1 (pixels instead of shares?)"),
        ("7 0.5 0.5 0.2 0.4", None, "objects of classes without a name (there are 2 names)"),
        ("-1 0.5 0.5 0.2 0.4", None, "objects of classes without a name (there are 2 names)"),
    ],
)
def test_rows(dataset: Any, rows: Any, counts: Any, row: str, box: list[float] | None, kind: str | None) -> None:
    conversion = yolo_to_coco(dataset({"a.txt": f"{row}\n", "b.txt": CENTERED}))
    expected = [("b.jpg", "cat", CENTERED_BOX)]
    assert rows(conversion) == ([("a.jpg", "dog", pytest.approx(box))] if box else []) + expected
    assert counts(conversion) == ({kind: 1} if kind else {})


def test_pose_rows_with_two_numbers_per_keypoint_need_the_shape(dataset: Any, rows: Any) -> None:
    yaml = "train: images/train\nnames: [cat]\nkpt_shape: [2, 2]\n"
    assert rows(yolo_to_coco(dataset({"a.txt": "0 0.5 0.5 0.2 0.4 0.9 0.9 0.1 0.1\n"}, yaml))) == [
        ("a.jpg", "cat", CENTERED_BOX)
    ]


def test_label_files_are_found_in_other_spellings_and_hidden_ones_ignored(
    tmp_path: Path, make_images: Any, rows: Any
) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    make_images(tmp_path / "images" / "train", f"{composed}.jpg", "B.JPG")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    for name in (f"{decomposed}.txt", "b.TXT", "._b.TXT"):
        (tmp_path / "labels" / "train" / name).write_text(CENTERED)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    conversion = yolo_to_coco(tmp_path / "data.yaml")
    assert sorted(rows(conversion)) == [("B.JPG", "cat", CENTERED_BOX), (f"{composed}.jpg", "cat", CENTERED_BOX)]
    assert conversion.report.lines() == []


def test_repeated_rows_count_once(dataset: Any, rows: Any, counts: Any) -> None:
    conversion = yolo_to_coco(dataset({"a.txt": CENTERED * 3, "b.txt": ""}))
    assert rows(conversion) == [("a.jpg", "cat", CENTERED_BOX)]
    assert counts(conversion) == {"objects listed twice (same image, class and box)": 2}


@pytest.mark.parametrize(
    "text",
    [b"\xef\xbb\xbf" + CENTERED.encode(), b"\r\n" + CENTERED.encode() + b"\r\n", CENTERED.encode("utf-16")],
    ids=["bom", "crlf", "utf-16"],
)
def test_encodings_of_label_files(dataset: Any, rows: Any, text: bytes) -> None:
    assert rows(yolo_to_coco(dataset({"a.txt": text, "b.txt": ""}))) == [("a.jpg", "cat", CENTERED_BOX)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[cat, dog]", {0: "cat", 1: "dog"}),
        ("{1: dog, 0: cat}", {0: "cat", 1: "dog"}),
        ("\n  0: cat\n  5: dog", {0: "cat", 5: "dog"}),
        ("[yes, 007]", {0: "yes", 1: "007"}),
        ('["cat ", "big dog"]', {0: "cat", 1: "big dog"}),
    ],
)
def test_class_names(dataset: Any, names: str, expected: dict[int, str]) -> None:
    tables = yolo_to_coco(dataset({"a.txt": CENTERED}, f"train: images/train\nnames: {names}\n")).tables
    assert {category["id"]: category["name"] for category in tables["categories"]} == expected


def test_number_of_classes(dataset: Any, counts: Any) -> None:
    file = dataset({"a.txt": CENTERED, "b.txt": ""}, "train: images/train\nnc: 3\nnames: [cat]\n")
    assert counts(yolo_to_coco(file)) == {"'nc' is 3, but 'names' has 1 classes; 'names' is used": 1}
    file.write_text("train: images/train\nnc: 2\n")
    assert [c["name"] for c in yolo_to_coco(file).tables["categories"]] == ["class 0", "class 1"]
    file.write_text("train: images/train\n")
    with pytest.raises(UserError, match="has no class names"):
        yolo_to_coco(file)
    assert [c["name"] for c in yolo_to_coco(file, classes=["a", "b"]).tables["categories"]] == ["a", "b"]


@pytest.mark.parametrize(
    "yaml",
    [
        "path: ../{here}\ntrain: images/train",
        "path: {root}\ntrain: images/train",
        "train: {root}/images/train",
        "path: /content/datasets/x\ntrain: /content/datasets/x/images/train",
        "train: ../images/train",
        "train: C:\\\\data\\images\\train",
        "train: [images/train/a.jpg, images/train/b.jpg]",
        "train: list.txt",
    ],
)
def test_paths_in_data_yaml(dataset: Any, tmp_path: Path, rows: Any, yaml: str) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf./images/train/a.jpg\r\n\r\nimages/train/b.jpg\r\n")
    text = yaml.format(root=tmp_path, here=tmp_path.name) + "\nnames: [cat, dog]\n"
    conversion = yolo_to_coco(dataset({"a.txt": CENTERED, "b.txt": CENTERED}, text))
    assert rows(conversion) == [("a.jpg", "cat", CENTERED_BOX), ("b.jpg", "cat", CENTERED_BOX)]


def test_roboflow_layout(tmp_path: Path, make_images: Any, rows: Any, counts: Any) -> None:
    """Paths begin with .. although the folders are beside the file, and val is in a folder named valid."""
    for split in ("train", "valid"):
        make_images(tmp_path / split / "images", f"{split} 1.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / f"{split} 1.txt").write_text(CENTERED)
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
        "roboflow:\n  workspace: x\n"
    )
    train = yolo_to_coco(tmp_path)
    assert rows(train) == [("train 1.jpg", "cat", CENTERED_BOX)]
    assert train.images == tmp_path / "train" / "images"
    assert counts(train) == {"the split is 'train'; choose another with --split: val, test": 1}
    assert rows(yolo_to_coco(tmp_path, split="val")) == [("valid 1.jpg", "cat", CENTERED_BOX)]
    with pytest.raises(UserError, match=r"test is '../test/images', which does not exist"):
        yolo_to_coco(tmp_path, split="test")


def test_list_of_folders(tmp_path: Path, make_images: Any, rows: Any) -> None:
    for folder in ("one/images", "two/images/deep"):
        make_images(tmp_path / folder, "x.jpg")
        labels = tmp_path / folder.replace("images", "labels")
        labels.mkdir(parents=True)
        (labels / "x.txt").write_text(CENTERED)
    (tmp_path / "data.yaml").write_text("train: [one/images, two/images]\nnames: [cat]\n")
    conversion = yolo_to_coco(tmp_path)
    assert rows(conversion) == [
        ("one/images/x.jpg", "cat", CENTERED_BOX),
        ("two/images/deep/x.jpg", "cat", CENTERED_BOX),
    ]
    assert conversion.images == tmp_path


@pytest.mark.parametrize("names_file", ["classes.txt", "obj.names"])
def test_folders_without_data_yaml(tmp_path: Path, make_images: Any, rows: Any, counts: Any, names_file: str) -> None:
    """Label Studio has folders images and labels; CVAT and Darknet have labels beside the images."""
    beside = names_file == "obj.names"
    make_images(tmp_path / ("obj_train_data" if beside else "images"), "a b.JPG", "._a b.JPG")
    labels = tmp_path / ("obj_train_data" if beside else "labels")
    labels.mkdir(exist_ok=True)
    (labels / "a b.txt").write_text(CENTERED)
    (labels / "gone.txt").write_text(CENTERED)
    (tmp_path / names_file).write_bytes(b"\xef\xbb\xbfcat\r\nbig dog\r\n")
    conversion = yolo_to_coco(tmp_path)
    assert rows(conversion) == [("a b.JPG", "cat", CENTERED_BOX)]
    assert [category["name"] for category in conversion.tables["categories"]] == ["cat", "big dog"]
    assert counts(conversion) == {"label files without an image": 1}


def test_rotated_images_have_upright_sizes(dataset: Any, tmp_path: Path, make_images: Any, rows: Any) -> None:
    """Shares refer to the upright image, here 50 x 100 pixels."""
    file = dataset({"a.txt": CENTERED, "b.txt": ""})
    make_images(tmp_path / "images" / "train", "a.jpg", orientation=6)
    assert rows(yolo_to_coco(file)) == [("a.jpg", "cat", [20, 30, 10, 40])]


def test_unreadable_images_are_skipped(dataset: Any, tmp_path: Path, rows: Any, counts: Any) -> None:
    file = dataset({"a.txt": CENTERED, "b.txt": CENTERED})
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"not an image")
    conversion = yolo_to_coco(file)
    assert rows(conversion) == [("a.jpg", "cat", CENTERED_BOX)]
    assert counts(conversion)["images that cannot be read"] == 1


def test_the_last_folder_named_images_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "images" / "x" / "labels").mkdir(parents=True)
    (tmp_path / "images" / "x" / "labels" / "a.txt").touch()
    label = tmp_path / "images" / "x" / "labels" / "a.txt"
    assert find_label_file(tmp_path / "images" / "x" / "images" / "a.jpg", Listings()) == label


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat]\n", "has none of 'train', 'val' and 'test'"),
        ("- cat\n", "contains a list; expected the keys of a YOLO data.yaml"),
        ("train: [\n", "is not valid YAML"),
        ("train: " + "[" * 3000, "is not usable: the YAML is nested too deeply|is not valid YAML"),
        ("train: nowhere\nnames: [cat]\n", r"train is 'nowhere', which does not exist: looked for it below"),
        ("train: {a: b}\nnames: [cat]\n", "expected a path, or a list of paths"),
        ("train: images/train\nnames: {x: cat}\n", "expected a class id and its name"),
        ("train: images/train\nnames: cat\n", "'names' is 'cat'; expected a list of class names"),
        ("train: images/train\nnames: [cat]\nkpt_shape: [many]\n", "'kpt_shape' is .* expected"),
        ("train: data.yaml\nnames: [cat]\n", "expected a folder, a list in a .txt file, or an image"),
    ],
)
def test_malformed_data_yaml_is_refused(dataset: Any, yaml: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        yolo_to_coco(dataset({"a.txt": CENTERED}, yaml))


def test_nothing_usable_is_refused_with_the_reasons(dataset: Any) -> None:
    with pytest.raises(
        UserError, match=r"no usable objects; skipped 2: boxes outside 0\.\.1 \(pixels .* \(a.txt line 1"
    ):
        yolo_to_coco(dataset({"a.txt": "0 50 25 20 20\n0 60 25 20 20\n", "b.txt": ""}))


def test_result_is_strict_json_for_other_readers(dataset: Any) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    tables = json.loads(json.dumps(yolo_to_coco(dataset({"a.txt": CENTERED, "b.txt": ""})).tables, allow_nan=False))
    coco = pycocotools.COCO()
    coco.dataset = tables
    coco.createIndex()
    assert [a["bbox"] for a in coco.loadAnns(coco.getAnnIds(imgIds=[1]))] == [CENTERED_BOX]


def test_fiftyone_layout(tmp_path: Path, make_images: Any, rows: Any) -> None:
    """dataset.yaml with the path of another machine and ./images/NAME/."""
    make_images(tmp_path / "images" / "val", "a.jpg")
    (tmp_path / "labels" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val" / "a.txt").write_text(CENTERED)
    (tmp_path / "dataset.yaml").write_text("names:\n  0: cat\npath: /home/other/export\nval: ./images/val/\n")
    conversion = yolo_to_coco(tmp_path)
    assert rows(conversion) == [("a.jpg", "cat", CENTERED_BOX)]
    assert conversion.images == tmp_path / "images" / "val"
