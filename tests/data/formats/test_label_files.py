"""Label files: the converters, which were written from the tools' own exports, read back what was detected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frcnn.data.formats.builder import Conversion
from frcnn.data.formats.coco_json import clean_coco
from frcnn.data.formats.label_files import LabelClasses, LabeledImage, check_image_names, write_labels
from frcnn.data.formats.manifest import manifest_to_coco
from frcnn.data.formats.voc import voc_to_coco
from frcnn.data.formats.yolo import yolo_to_coco
from frcnn.errors import UserError

CLASSES = LabelClasses(["red & blue cell", "Blutplättchen"], [7, 3])
BOXES = np.array([[0, 0, 10.5, 20.25], [30.125, 5, 64, 48]], np.float32)
IMAGES = [
    LabeledImage("a b.png", 64, 48, BOXES, np.array([2, 1]), np.array([0.9, 0.31])),
    LabeledImage("deep/c.png", 31, 77, np.array([[1, 2, 30, 70]], np.float32), np.array([1]), np.array([0.5])),
    LabeledImage("deep/empty.png", 10, 10, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "images" / "train"
    for image in IMAGES:
        (folder / image.name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image.width, image.height)).save(folder / image.name)
    return folder


def read_back(label_format: str, labels: Path, photos: Path) -> Conversion:
    """What `frcnn convert` makes of a folder of labels."""
    if label_format == "coco-dataset":
        return clean_coco(labels / "instances_default.json", images=photos)
    if label_format == "voc":
        return voc_to_coco(labels, images=photos, zero_based=True)
    if label_format == "manifest":
        return manifest_to_coco(labels / "labels.manifest", images=photos)
    (labels / "images").symlink_to(photos.parent)  # YOLO's lists are relative to the labels
    return yolo_to_coco(labels / "data.yaml")


def contents(tables: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """By image: its size, and class name and box (x, y, width, height) of each object."""
    names = {category["id"]: category["name"] for category in tables["categories"]}
    found: dict[str, tuple[Any, ...]] = {}
    for image in tables["images"]:
        own = [entry for entry in tables["annotations"] if entry["image_id"] == image["id"]]
        objects = sorted((names[entry["category_id"]], *np.round(entry["bbox"], 2).tolist()) for entry in own)
        name = image["file_name"].removeprefix("images/train/")
        found[name] = (image["width"], image["height"], objects)
    return found


@pytest.mark.parametrize("label_format", ["coco-dataset", "yolo", "voc", "manifest"])
def test_converters_read_back_what_was_detected(label_format: str, photos: Path, tmp_path: Path) -> None:
    write_labels(label_format, IMAGES, CLASSES, tmp_path, "s3://bucket/some/images/")
    conversion = read_back(label_format, tmp_path, photos)
    first = [("Blutplättchen", 0.0, 0.0, 10.5, 20.25), ("red & blue cell", 30.12, 5.0, 33.88, 43.0)]
    if label_format == "manifest":  # whole pixels
        first = [("Blutplättchen", 0.0, 0.0, 10.0, 20.0), ("red & blue cell", 30.0, 5.0, 34.0, 43.0)]
    assert contents(conversion.tables) == {
        "a b.png": (64, 48, first),
        "deep/c.png": (31, 77, [("red & blue cell", 1.0, 2.0, 29.0, 68.0)]),
        "deep/empty.png": (10, 10, []),
    }
    assert conversion.report.lines() == []


def test_coco_labels_keep_the_ids_of_the_model_and_the_scores(tmp_path: Path) -> None:
    write_labels("coco-dataset", IMAGES, CLASSES, tmp_path)
    tables = json.loads((tmp_path / "instances_default.json").read_text())
    assert tables["categories"] == [{"id": 7, "name": "red & blue cell"}, {"id": 3, "name": "Blutplättchen"}]
    first = tables["annotations"][0]
    assert (first["category_id"], first["score"], first["iscrowd"]) == (3, 0.9, 0)
    assert first["area"] == pytest.approx(10.5 * 20.25)


def test_a_manifest_has_the_addresses_and_confidences_that_ground_truth_reads(tmp_path: Path) -> None:
    write_labels("manifest", IMAGES, CLASSES, tmp_path, "s3://bucket/images")
    lines = [json.loads(line) for line in (tmp_path / "labels.manifest").read_text().splitlines()]
    assert [line["source-ref"] for line in lines] == [f"s3://bucket/images/{image.name}" for image in IMAGES]
    assert lines[0]["labels"]["annotations"][1] == {"class_id": 0, "left": 30, "top": 5, "width": 34, "height": 43}
    metadata = lines[0]["labels-metadata"]
    assert metadata["objects"] == [{"confidence": 0.9}, {"confidence": 0.31}]
    assert metadata["class-map"] == {"0": "red & blue cell", "1": "Blutplättchen"}
    assert (metadata["type"], metadata["human-annotated"]) == ("groundtruth/object-detection", "no")


@pytest.mark.parametrize(
    ("uri", "address"),
    [(None, "/data/local-files/?d=a%20b.png"), ("https://host/images", "https://host/images/a%20b.png")],
)
def test_label_studio_gets_tasks_with_predictions_in_percent(tmp_path: Path, uri: str | None, address: str) -> None:
    write_labels("label-studio", IMAGES, CLASSES, tmp_path, uri)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [len(task["predictions"][0]["result"]) for task in tasks] == [2, 1, 0]
    assert tasks[0]["data"] == {"image": address}
    result = tasks[0]["predictions"][0]["result"][0]
    assert (result["type"], result["from_name"], result["to_name"]) == ("rectanglelabels", "label", "image")
    assert (result["original_width"], result["original_height"], result["score"]) == (64, 48, 0.9)
    value = result["value"]
    assert value["rectanglelabels"] == ["Blutplättchen"]
    shares = [value[side] for side in ("x", "y", "width", "height")]
    assert shares == pytest.approx([0, 0, 100 * 10.5 / 64, 100 * 20.25 / 48])


@pytest.mark.parametrize(
    ("label_format", "names", "uri", "message"),
    [
        ("coco-dataset", ["1.jpg", "1.jpg"], None, "the images 1.jpg and 1.jpg would have the same labels"),
        ("yolo", ["a/1.jpg", "a/1.png"], None, "the images a/1.jpg and a/1.png would have the same labels"),
        ("voc", ["1.jpg", "1.png"], None, "rename one"),
        ("manifest", ["1.jpg"], None, "--images-uri is None; a manifest names images by their S3 addresses"),
        ("manifest", ["1.jpg"], "images", "--images-uri is images"),
        ("yolo", ["1.jpg"], "s3://b/i", "contain no addresses; leave it out"),
    ],
)
def test_labels_that_could_not_be_told_apart_are_refused(
    label_format: str, names: list[str], uri: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_image_names(names, label_format, uri)


def test_images_of_one_name_in_two_folders_are_fine() -> None:
    check_image_names(["a/1.jpg", "b/1.jpg", "a/2.jpg"], "yolo", None)
    check_image_names(["1.jpg", "1.png"], "manifest", "s3://bucket/images")
