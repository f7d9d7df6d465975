"""What is read leniently, corrected or skipped in annotation files, and how the summary reports it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycocotools_mask

from frcnn.data.coco import Index, check_same_classes, load_index
from frcnn.data.segmentation import segmentation_box
from frcnn.errors import UserError

CATEGORIES = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]


def images(*names: str) -> list[dict[str, Any]]:
    return [{"id": number, "file_name": name, "width": 100, "height": 80} for number, name in enumerate(names, start=1)]


def box(number: Any, image_id: Any = 1, bbox: Any = (10, 20, 30, 40), **more: Any) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(bbox) if isinstance(bbox, tuple) else bbox,
        **more,
    }
    return {key: value for key, value in entry.items() if value != "absent"}


def load(folder: Path, annotations: list[Any], listed: list[Any] | None = None, **options: Any) -> Index:
    tables = {"images": listed or images("a.jpg", "b.jpg"), "annotations": annotations}
    return load_tables(folder, {**tables, "categories": CATEGORIES}, **options)


def load_tables(folder: Path, tables: dict[str, Any], **options: Any) -> Index:
    (folder / "instances.json").write_text(json.dumps(tables))
    return load_index(folder, folder / "instances.json", **{"require_images": False, **options})


def test_summary_counts_everything(tmp_path: Path) -> None:
    annotations = [
        *(box(number) for number in range(10)),
        box(20, bbox=(200, 1, 5, 5)),
        box(21, bbox=(300, 1, 5, 5)),
        box(22, bbox=(1, 1, 0, 5)),
        box(23, iscrowd=1),
        box(24, bbox=(90, 70, 20, 20)),
    ]
    summary = load(tmp_path, annotations).summary
    assert summary.to_json() == {
        "file": str(tmp_path / "instances.json"),
        "images": 2,
        "images_without_objects": 1,
        "annotations": 15,
        "objects": 11,
        "crowd_regions": 1,
        "skipped": {
            "no_area": {
                "count": 1,
                "examples": ["annotation 22 (image 1, a.jpg): bbox [1, 1, 0, 5] has no area"],
            },
            "outside_image": {
                "count": 2,
                "examples": [
                    f"annotation {number} (image 1, a.jpg): bbox [{x}, 1, 5, 5] lies outside the image of 100 x 80 "
                    "pixels"
                    for number, x in ((20, 200), (21, 300))
                ],
            },
        },
        "corrections": {"clipped_boxes": 1},
    }
    lines = summary.lines()
    assert lines[0].endswith("instances.json: 2 images (1 without objects), 11 of 15 annotations used as objects")
    assert lines[1] == "  1 annotation skipped (no_area): annotation 22 (image 1, a.jpg): bbox [1, 1, 0, 5] has no area"
    assert lines[3].startswith("  1 crowd region (iscrowd=1), not trained on and ignored in evaluation")
    assert lines[4] == "  1 boxes that extend over the image's edge by more than 1 pixel, clipped"


def test_ids_that_restart_in_every_image_cost_no_annotation(tmp_path: Path) -> None:
    annotations = [box(number, image_id, (number, 1, 5, 5)) for image_id in (1, 2) for number in (3, 1, 2)]
    index = load(tmp_path, annotations)
    assert [record.annotation_ids.tolist() for record in index.images] == [[1, 2, 3], [4, 5, 6]]
    assert [record.boxes[:, 0].tolist() for record in index.images] == [[3, 1, 2], [3, 1, 2]]
    assert index.summary.notes["renumbered_ids"][0] == 3
    assert index.problems == ()


@pytest.mark.parametrize("number", [None, "absent", "seven", 2**70, 1.5])
def test_unusable_ids_cost_no_annotation(tmp_path: Path, number: Any) -> None:
    index = load(tmp_path, [box(9), box(number, bbox=(1, 2, 3, 4))])
    assert index.images[0].annotation_ids.tolist() == [1, 2]
    assert index.summary.notes["renumbered_ids"][0] == 1
    index = load(tmp_path, [box(9), box(number, bbox=(1, 2, 0, 4))])
    assert index.problems[0].reason.startswith("entry 1 of 'annotations' (image 1, a.jpg): bbox [1, 2, 0, 4]")


def test_numbers_in_other_forms_cost_no_annotation(tmp_path: Path) -> None:
    annotations = [
        box(3.0, "1", area="77.5"),
        box("4", 1.0, ["1", 2, " 3 ", "4e0"], category_id=2.0),
        box(5, iscrowd="0"),
        box(6, iscrowd=True),
        box(7, area="big"),
    ]
    index = load(tmp_path, annotations, [{"id": "1", "file_name": "a.jpg", "width": "100", "height": 80.0}])
    (record,) = index.images
    assert record.annotation_ids.tolist() == [3, 4, 5, 6, 7]
    assert record.boxes[1].tolist() == [1, 2, 4, 6]
    assert record.labels.tolist() == [1, 2, 1, 1, 1]
    assert record.crowd.tolist() == [False, False, False, True, False]
    assert record.areas.tolist() == [77.5, 12, 1200, 1200, 1200]
    assert index.problems == ()
    assert index.summary.notes["converted_values"][0] == 4


def test_boxes_are_derived_from_polygons_and_masks(tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[20:41, 10:31] = 1
    packed = pycocotools_mask.encode(np.asfortranarray(mask))
    runs = [0, *np.diff(np.flatnonzero(np.diff(np.r_[0, mask.T.ravel(), 0])), prepend=0).tolist()]
    plain = {"size": [80, 100], "counts": [runs[1], *runs[2:], 80 * 100 - sum(runs)]}
    segmentations = [
        [[10, 20, 31, 20, 31, 41], [12, 41, 10, 30, 11, 40]],
        [10, 20, 31, 20, 10, 41],
        {"size": [80, 100], "counts": packed["counts"].decode()},
        plain,
    ]
    annotations = [
        box(number, bbox=bbox, segmentation=segmentation)
        for number, segmentation in enumerate(segmentations)
        for bbox in (None, "absent", [])
    ]
    index = load(tmp_path, annotations)
    assert index.problems == ()
    assert index.images[0].boxes.tolist() == [[10, 20, 31, 41]] * 12
    assert index.summary.notes["derived_boxes"][0] == 12
    for segmentation in ([], [[1, 2, 3]], [[1, 1, 1, 5, 1, 9]], {"size": [80, 100], "counts": "?"}, "x", None):
        index = load(tmp_path, [box(1), box(2, bbox=None, segmentation=segmentation)])
        assert [problem.kind for problem in index.problems] == ["no_box"]


def test_mask_boxes_equal_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 30, 2).tolist()
        mask = (rng.random((height, width)) < rng.choice([0.0, 0.02, 0.3, 1.0])).astype(np.uint8)
        packed = pycocotools_mask.encode(np.asfortranarray(mask))
        found = segmentation_box({"size": [height, width], "counts": packed["counts"].decode()})
        expected = tuple(pycocotools_mask.toBbox(packed).tolist())
        assert found == (expected if mask.any() else None)


def test_entries_of_one_file_are_merged(tmp_path: Path) -> None:
    listed = images("sub/a.jpg", "b.jpg", "sub\\a.jpg", "./sub/a.jpg")
    annotations = [box(1, 1), box(2, 3, (1, 2, 3, 4)), box(3, 4), box(4, 2)]  # box 3 repeats box 1
    index = load(tmp_path, annotations, listed)
    assert [record.image_id for record in index.images] == [1, 2]
    assert index.images[0].annotation_ids.tolist() == [1, 2]
    assert index.summary.notes["merged_images"][0] == 2
    assert index.summary.notes["merged_boxes"][0] == 1
    listed[2]["width"] = 99
    with pytest.raises(UserError, match=r"image 3 .* is listed with the sizes 100 x 80 and 99 x 80; correct one"):
        load(tmp_path, annotations, listed)


def test_sizes_are_read_from_the_files_where_they_are_missing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.tif", "c.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / name, exif=exif)
    sizes = ({}, {"width": 0, "height": 0}, {"width": None, "height": 40})
    listed = [
        {"id": number, "file_name": name, **size}
        for number, (name, size) in enumerate(zip(("a.jpg", "b.tif", "c.png"), sizes, strict=True))
    ]
    index = load(tmp_path, [], listed)
    assert [(record.width, record.height) for record in index.images] == [(40, 60)] * 3  # upright
    assert index.summary.notes["sizes_from_files"][0] == 3


def test_class_names_are_cleaned_and_quoted(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": " red cell\n"}, {"id": 2, "name": "\ufeffwhite\tcell"}]
    tables = {"images": images("a.jpg"), "annotations": [box(1)], "categories": categories}
    index = load_tables(tmp_path, tables)
    assert index.class_names == ("red cell", "white cell")
    assert index.summary.notes["cleaned_names"][0] == 2
    assert r"' red cell\n' to 'red cell'" in "\n".join(index.summary.lines())
    other = load(tmp_path, [])
    with pytest.raises(UserError, match=re.escape("does not have: 'red cell'; expected only 'ant', 'bee'")):
        check_same_classes(other, index)


@pytest.mark.parametrize("group_in", ["train", "validation", "both"])
def test_group_categories_shift_neither_labels_nor_classes(tmp_path: Path, group_in: str) -> None:
    classes = [{"id": 1, "name": "ant", "supercategory": "insect"}, {"id": 2, "name": "bee", "supercategory": "insect"}]
    with_group = [{"id": 0, "name": "insect", "supercategory": "none"}, *classes]
    loaded = {
        split: load_tables(
            tmp_path,
            {
                "images": images("a.jpg"),
                "annotations": [box(1, category_id=2)],
                "categories": with_group if group_in in (split, "both") else classes,
            },
        )
        for split in ("train", "validation")
    }
    for index in (*loaded.values(), check_same_classes(loaded["train"], loaded["validation"])):
        assert index.class_names == ("ant", "bee")
        assert index.images[0].labels.tolist() == [2]
    tables = {"images": images("a.jpg"), "annotations": [box(1, category_id=0)], "categories": with_group}
    assert load_tables(tmp_path, tables).class_names == ("insect", "ant", "bee")  # used as a class


def test_a_group_of_its_own_name_does_not_double_the_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "cell", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cell"},
    ]
    tables = {"images": images("a.jpg"), "annotations": [box(1)], "categories": categories}
    assert load_tables(tmp_path, tables).class_names == ("cell",)


def test_crowd_regions_are_explained(tmp_path: Path) -> None:
    index = load(tmp_path, [box(1), box(2, iscrowd=1), box(3, iscrowd=1)])
    (line,) = [line for line in index.summary.lines() if "(iscrowd=1)" in line]
    assert line.startswith(
        "  2 crowd regions (iscrowd=1), not trained on and ignored in evaluation; CVAT exports every"
    )
    assert not any("CVAT" in line for line in load(tmp_path, [box(1)]).summary.lines())


def test_unlisted_and_respelled_files_are_counted(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpg", "c.jpg", "._c.jpg", "notes.txt"):
        Image.new("RGB", (100, 80)).save(tmp_path / name, format="JPEG")
    index = load(tmp_path, [box(1)], require_images=True)
    assert index.images[0].path == tmp_path / "a.JPG"
    assert index.summary.notes["respelled_files"][0] == 1
    assert index.summary.notes["unlisted_files"] == (
        1,
        f"image files in {tmp_path} that the file does not list; not used",
    )
