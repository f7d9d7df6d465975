"""COCO's classes against a real annotation file."""

from __future__ import annotations

import json
from pathlib import Path

from frcnn.weights.coco_classes import classes_of


def test_names_and_ids_equal_those_of_the_annotation_file(real_data: Path) -> None:
    categories = json.loads((real_data / "coco128" / "annotations" / "instances_val2017.json").read_text())[
        "categories"
    ]
    assert classes_of(80) == (tuple(c["name"] for c in categories), tuple(c["id"] for c in categories))
    names, ids = classes_of(90)
    assert ids == tuple(range(1, 91))
    assert all(names[category["id"] - 1] == category["name"] for category in categories)
    assert len(set(names)) == 90


def test_classes_of_other_networks_are_numbered() -> None:
    assert classes_of(2) == (("class 1", "class 2"), (1, 2))
