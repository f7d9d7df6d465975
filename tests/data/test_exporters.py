"""COCO files of the shape that annotation tools export: what is read, and what the summary reports.

Every row of the table in ``docs/data.md`` has a test here, or in ``tests/data/formats`` if it needs a conversion.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frcnn.config import Data
from frcnn.data.coco import Index, find_split, load_index, match_classes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
WIDTH, HEIGHT = 60, 40


def save(root: Path, file: str, tables: dict[str, Any], *images: str) -> None:
    for path in (file, *images):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(tables))
    for image in images:
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / image)


def load(root: Path, split: str = "train") -> Index:
    return load_index(*find_split(Data(root=root), split))


def boxes(index: Index) -> list[list[tuple[str, list[float]]]]:
    return [
        [(index.class_names[label - 1], box) for label, box in zip(record.labels, record.boxes.tolist(), strict=True)]
        for record in index.images
    ]


def test_cvat(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[10:20, 30:50] = 1
    changes = np.flatnonzero(np.diff(np.r_[0, mask.T.ravel(), 0]))
    counts = np.diff(np.r_[0, changes, WIDTH * HEIGHT]).tolist()
    common = {"image_id": 1, "category_id": 1, "attributes": {"occluded": False, "rotation": 0.0}}
    tables = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": 1, "name": "cell", "supercategory": ""}],
        "images": [
            *(
                {
                    "id": number,
                    "width": WIDTH,
                    "height": HEIGHT,
                    "file_name": name,
                    "license": 0,
                    "flickr_url": "",
                    "coco_url": "",
                    "date_captured": 0,
                }
                for number, name in ((1, "a.jpg"), (2, "b.jpg"))
            )
        ],
        "annotations": [
            {**common, "id": 1, "segmentation": [], "area": 48.0, "bbox": [1.0, 2.0, 8.0, 6.0], "iscrowd": 0},
            {
                **common,
                "id": 2,
                "segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]},
                "area": 200.0,
                "bbox": [30.0, 10.0, 20.0, 10.0],
                "iscrowd": 1,
            },
        ],
    }
    save(tmp_path, "annotations/instances_default.json", tables, "images/a.jpg", "images/b.jpg")
    index = load(tmp_path)
    assert boxes(index) == [[("cell", [1, 2, 9, 8]), ("cell", [30, 10, 50, 20])], []]
    assert index.images[0].crowd.tolist() == [False, True]
    text = "\n".join(index.summary.lines())
    assert "2 images (1 without objects), 1 of 2 annotations used as objects" in text
    assert "1 crowd region (iscrowd=1), not trained on and ignored in evaluation; CVAT exports every mask" in text


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_label_studio(tmp_path: Path, slash: str) -> None:
    names = ["3f1c-a.jpg", "77aa-b.jpg"]
    tables = {
        "images": [
            {"width": WIDTH, "height": HEIGHT, "id": 0, "file_name": f"images{slash}{names[0]}"},
            {"width": None, "height": None, "id": 1, "file_name": f"images{slash}{names[1]}"},
        ],
        "categories": [{"id": 0, "name": "cell"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 0,
                "segmentation": [],
                "bbox": [1.0, 2.0, 8.0, 6.0],
                "ignore": 0,
                "iscrowd": 0,
                "area": 48.0,
            }
        ],
        "info": {"year": 2025, "version": "1.0", "description": "", "contributor": "Label Studio", "url": ""},
    }
    save(tmp_path, "result.json", tables, *(f"images/{name}" for name in names))
    index = load(tmp_path)
    assert boxes(index) == [[("cell", [1, 2, 9, 8])], []]
    assert index.summary.notes["sizes_from_files"][0] == 1
    assert index.summary.notes.get("respelled_files", (0,))[0] == (2 if slash == "\\" else 0)


def test_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        tables = {
            "info": {"year": "2024", "version": "1", "description": "Exported from roboflow.com"},
            "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
            "categories": [
                {"id": 0, "name": "blood", "supercategory": "none"},
                {"id": 1, "name": "RBC", "supercategory": "blood"},
                {"id": 2, "name": "WBC", "supercategory": "blood"},
            ],
            "images": [
                {"id": 0, "license": 1, "file_name": "a_jpg.rf.1.jpg", "height": HEIGHT, "width": WIDTH, "extra": {}}
            ],
            "annotations": [
                {
                    "id": 0,
                    "image_id": 0,
                    "category_id": 2,
                    "bbox": [1, 2, 8, 6],
                    "area": 48,
                    "segmentation": [],
                    "iscrowd": 0,
                }
            ],
        }
        save(tmp_path, f"{split}/_annotations.coco.json", tables, f"{split}/a_jpg.rf.1.jpg")
    for split in ("train", "validation"):
        index = load(tmp_path, split)
        assert index.class_names == ("RBC", "WBC")
        assert boxes(index) == [[("WBC", [1, 2, 9, 8])]]
        assert "1 not classes but groups of other categories: 'blood'" in "\n".join(index.summary.lines())
    # A model that was trained when the group counted as a class is evaluated all the same.
    older = match_classes(index, ("blood", "RBC", "WBC"))
    assert boxes(older) == [[("WBC", [1, 2, 9, 8])]]


def test_fiftyone(tmp_path: Path) -> None:
    tables = {
        "info": {"year": "", "version": "", "description": "Exported from FiftyOne"},
        "licenses": [],
        "categories": [{"id": 0, "name": "cell", "supercategory": None}],
        "images": [
            {
                "id": 1,
                "file_name": "a.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "license": None,
                "coco_url": None,
            }
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 0,
                "bbox": [1.0, 2.0, 8.0, 6.0],
                "supercategory": "thing",
                "area": 48.0,
                "iscrowd": 0,
            }
        ],
    }
    save(tmp_path, "labels.json", tables, "data/a.jpg")
    index = load(tmp_path)
    assert boxes(index) == [[("cell", [1, 2, 9, 8])]]
    assert len(index.summary.lines()) == 1


def test_via(tmp_path: Path) -> None:
    tables = {
        "info": {"year": 2025, "version": "1", "description": "VIA project exported to COCO format"},
        "images": [{"id": 0, "width": WIDTH, "height": HEIGHT, "file_name": "a.jpg", "license": 1}],
        "annotations": [
            {
                "id": 0,
                "image_id": "0",
                "category_id": 1,
                "segmentation": [1, 2, 9, 2, 9, 8, 1, 8],
                "area": 48,
                "bbox": [1, 2, 8, 6],
                "iscrowd": 0,
            }
        ],
        "licenses": [{"id": 1, "name": "Unknown", "url": ""}],
        "categories": [{"id": 1, "name": "cell", "supercategory": "type"}],
    }
    save(tmp_path, "via_export_coco.json", tables, "a.jpg")
    index = load(tmp_path)
    assert boxes(index) == [[("cell", [1, 2, 9, 8])]]
    assert index.summary.notes["converted_values"][0] == 1


def test_labelme(tmp_path: Path) -> None:
    tables = {
        "info": {"description": None, "url": None, "version": None, "year": 2025, "contributor": None},
        "licenses": [{"url": None, "id": 0, "name": None}],
        "images": [
            {
                "license": 0,
                "url": None,
                "file_name": "JPEGImages/a.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": None,
                "id": 0,
            }
        ],
        "type": "instances",
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 1,
                "segmentation": [[1.0, 2.0, 9.0, 2.0, 9.0, 8.0, 1.0, 8.0]],
                "area": 48.0,
                "bbox": [1.0, 2.0, 8.0, 6.0],
                "iscrowd": 0,
            }
        ],
        "categories": [
            {"supercategory": None, "id": 0, "name": "_background_"},
            {"supercategory": None, "id": 1, "name": "cell"},
        ],
    }
    save(tmp_path, "annotations.json", tables, "JPEGImages/a.jpg")
    index = load(tmp_path)
    assert index.class_names == ("_background_", "cell")
    assert boxes(index) == [[("cell", [1, 2, 9, 8])]]


def test_every_row_of_the_table_has_a_test() -> None:
    section = PAGE.read_text().partition("## What annotation tools export")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    direct = [row for row in rows if "frcnn convert" not in row]
    names = {row.split("|")[1].partition(" (")[0].strip().lower().replace(" ", "_") for row in direct}
    assert {"cvat", "label_studio", "roboflow", "fiftyone", "via", "labelme"} <= names <= tested
    converted = [
        name
        for row in rows
        for first, second in re.findall(r"`frcnn convert (\w+)`(?: or `(\w+)`)?", row)
        for name in (first, second)
        if name
    ]
    assert {"yolo", "manifest", "labelme", "via"} <= set(converted)
    for name in converted:
        assert list(Path(__file__).with_name("formats").glob(f"test_{name}*.py")), name
