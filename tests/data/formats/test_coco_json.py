"""Cleaning of COCO files: faults of known exporters, against tables written by hand. All images are 100 x 50 pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.formats.coco_json import clean_coco
from frcnn.errors import UserError

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
DOG = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 20]}
DOG_ROW = ("a.jpg", "dog", [10, 5, 20, 20])


@pytest.fixture
def write(tmp_path: Path, make_images: Any) -> Any:
    """Writes a COCO file beside images/a.jpg and b.jpg."""

    def of(*annotations: Any, images: Any = (IMAGE,), categories: Any = CATEGORIES) -> Path:
        make_images(tmp_path / "images", "a.jpg", "b.jpg")
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "coco.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
        return tmp_path / "coco.json"

    return of


def test_a_correct_file_stays_as_it_is(write: Any) -> None:
    crowd = DOG | {"id": 2, "category_id": 3, "iscrowd": 1, "area": 55.5, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    conversion = clean_coco(write(DOG | {"area": 390}, crowd, images=[IMAGE | {"patient": "x", "meta": {"a": 1}}]))
    assert conversion.tables == {
        "images": [IMAGE | {"patient": "x"}],
        "annotations": [
            {"id": 1, "category_id": 7, "image_id": 1, "bbox": [10, 5, 20, 20], "area": 390, "iscrowd": 0},
            {"id": 2, "category_id": 3, "image_id": 1, "bbox": [10, 5, 20, 20], "area": 55.5, "iscrowd": 1},
        ],
        "categories": CATEGORIES,
    }
    assert conversion.report.lines() == ["note 1: crowd regions (iscrowd), which are not trained on (annotation id 2)"]


def test_ids_that_restart_and_types_of_other_exporters(write: Any, rows: Any) -> None:
    again = DOG | {"id": 1, "image_id": 2.0, "category_id": "3", "bbox": ["1", 2, 3.5, "4"], "area": "14"}
    images = [IMAGE, {"id": "2", "file_name": "b.jpg", "width": 100.0, "height": "50"}]
    conversion = clean_coco(write(DOG, again, images=images))
    assert rows(conversion) == [DOG_ROW, ("b.jpg", "cat", [1, 2, 3.5, 4])]
    assert [annotation["id"] for annotation in conversion.tables["annotations"]] == [1, 2]
    assert conversion.report.lines() == []


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([[10, 5, 30, 8, 20, 25]], [10, 5, 20, 20]),
        ([[10, 5, 12, 5, 12, 7], [20, 20, 30, 20, 30, 25]], [10, 5, 20, 20]),
        ({"size": [50, 100], "counts": [505, 20, 30, 20, 4425]}, [10, 5, 2, 20]),  # columns 10 and 11, rows 5 to 24
    ],
)
def test_boxes_from_segmentations(write: Any, rows: Any, counts: Any, segmentation: Any, box: Any) -> None:
    conversion = clean_coco(write({**DOG, "bbox": [], "segmentation": segmentation}))
    assert rows(conversion) == [("a.jpg", "dog", box)]
    assert counts(conversion) == {"boxes derived from the segmentation": 1}


def test_what_cannot_be_used_is_counted(write: Any, rows: Any, counts: Any) -> None:
    others = [
        DOG | {"bbox": [float("nan"), 5, 20, 20]},
        DOG | {"bbox": [1, 5, 20, 0]},
        DOG | {"bbox": [1, 5, 20]},
        DOG | {"bbox": [200, 5, 20, 20]},
        DOG | {"image_id": 9},
        DOG | {"category_id": 9},
        DOG | {"id": 4},
        None,
    ]
    conversion = clean_coco(write(DOG, *others))
    assert rows(conversion) == [DOG_ROW]
    assert counts(conversion) == {
        "boxes with a coordinate that is not a usable number": 1,
        "boxes without width or height": 1,
        "annotations without a bbox of four numbers or a segmentation": 1,
        "boxes outside their image": 1,
        "annotations of images that are not listed or were skipped": 1,
        "annotations of categories that are not listed": 1,
        "objects listed twice (same image, class and box)": 1,
        "annotations that are not JSON objects": 1,
    }


def test_one_file_under_two_image_ids_is_merged(write: Any, rows: Any, counts: Any) -> None:
    images = [IMAGE, IMAGE | {"id": 2}, IMAGE | {"id": 2, "file_name": "b.jpg"}]
    conversion = clean_coco(write(DOG, DOG | {"image_id": 2, "bbox": [1, 1, 2, 2]}, images=images))
    assert rows(conversion) == [DOG_ROW, ("a.jpg", "dog", [1, 1, 2, 2])]
    assert counts(conversion) == {"images listed more than once, merged": 1, "images whose id another one has": 1}


def test_names_and_groups(write: Any, counts: Any) -> None:
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 3, "name": " cat\n", "supercategory": "animals"},
        {"id": 7, "name": "dog", "supercategory": "dog"},
        {"id": 8},
        {"id": 7, "name": "cow"},
    ]
    conversion = clean_coco(write(DOG, categories=categories))
    assert conversion.tables["categories"] == CATEGORIES
    assert counts(conversion) == {
        "categories without objects that only group others": 1,
        "class names with control characters or surrounding space": 1,
        "categories without id and name": 1,
        "categories whose id another one has": 1,
    }


@pytest.mark.parametrize(
    "name",
    [
        "images\\a.jpg",
        "/home/me/images/a.jpg",
        "https://host/a.jpg",
        "../a.jpg",
        "A.JPG",
        "data/local-files/?d=x/a.jpg",
    ],
)
def test_paths_with_the_images_folder(write: Any, tmp_path: Path, rows: Any, counts: Any, name: str) -> None:
    conversion = clean_coco(write(DOG, images=[IMAGE | {"file_name": name}]), images=tmp_path / "images")
    assert rows(conversion) == [DOG_ROW]
    assert counts(conversion) == {"paths of images": 1}


def test_sizes_and_missing_files_with_the_images_folder(write: Any, tmp_path: Path, rows: Any, counts: Any) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "width": 0, "height": 0}, IMAGE | {"id": 2, "file_name": "gone.jpg"}]
    conversion = clean_coco(write(DOG, images=images), images=tmp_path / "images")
    assert conversion.tables["images"] == [IMAGE]
    assert counts(conversion) == {
        "missing or zero image sizes, read from the image": 1,
        "images whose file is missing": 1,
    }


def test_paths_without_the_images_folder_stay_below_one(write: Any, counts: Any) -> None:
    images = [IMAGE | {"file_name": "/data/sub/a.jpg"}, IMAGE | {"id": 2, "file_name": "sub\\b.jpg", "width": 0}]
    conversion = clean_coco(write(DOG, images=images))
    assert [image["file_name"] for image in conversion.tables["images"]] == ["a.jpg", "sub/b.jpg"]
    assert "width" not in conversion.tables["images"][1]
    assert counts(conversion) == {
        "paths of images": 2,
        "images without a size, which is then read from the image file": 1,
    }


def test_box_formats(write: Any, rows: Any, counts: Any) -> None:
    corners = clean_coco(write(DOG | {"bbox": [10, 5, 30, 25]}), box_format="xyxy")
    assert rows(corners) == [DOG_ROW]
    images = [IMAGE, {"id": 2, "file_name": "b.jpg"}]
    shares = DOG | {"bbox": [0.1, 0.1, 0.2, 0.4]}
    conversion = clean_coco(write(shares, shares | {"image_id": 2}, images=images), box_format="normalized_xywh")
    assert rows(conversion) == [DOG_ROW]
    assert counts(conversion)["normalized boxes in images without a size (give --images)"] == 1


@pytest.mark.parametrize(
    ("boxes", "option"),
    [
        ([[60, 20, 80, 40], [50, 30, 60, 45], [70, 5, 95, 20]], "xyxy"),
        ([[0.1, 0.1, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1], [0.3, 0.3, 0.3, 0.3]], "normalized_xywh"),
    ],
)
def test_boxes_that_look_like_another_format_are_refused(write: Any, rows: Any, boxes: Any, option: Any) -> None:
    file = write(*(DOG | {"bbox": box} for box in boxes))
    with pytest.raises(UserError, match=rf"3 (of|boxes).*--box-format {option}"):
        clean_coco(file)
    assert len(rows(clean_coco(file, box_format="xywh"))) == 3
    assert len(rows(clean_coco(file, box_format=option))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no lists 'images' and 'annotations'"),
        ('{"images": {}, "annotations": []}', "has no lists 'images' and 'annotations'"),
        ('{"images": [], "annotations": []}', "no usable images; none are listed"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": [' + "1" * 5000 + '], "annotations": []}', "is not valid JSON: Exceeds the limit"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(UserError, match=message):
        clean_coco(tmp_path / "coco.json")
