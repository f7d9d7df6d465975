"""2,000 damaged annotation files: never a stack trace, and the used boxes are those of an independent slow reader."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import slow_reader

from frcnn.data.coco import Index, load_index
from frcnn.errors import UserError

MUTATIONS = 2_000
PER_TEST = 250  # several tests run in parallel

# Values that replace any other: wrong types, limits, and what exporters write.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 3.0, 3.5, -0.0, 1e-9, 1e300, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, "", "7", "7.0", " 3 ", "3.5", "1e2", "nan", "inf", "1_0", "x"),
    *("a.jpg", "sub/a.jpg", "sub\\a.jpg", "./a.jpg", "../a.jpg", "/a.jpg", "C:\\a.jpg", "a\0.jpg", "\ud800"),
    *(" cell", "cell\n", "\ufeffcell", "cells", "\t", [], {}, [1, 2, 3], [1, 2, 30, 40], [[]], {"id": 1}, "٣", "½"),
    *([[5, 5, 30, 5, 30, 40]], [5, 5, 30, 5, 30, 40], [[5, 5, 30]], [["5", 5, 30, 5, 30, 40]]),
)


def sample_file(rng: random.Random) -> dict[str, Any]:
    """A valid file of a few images, with what exporters vary."""
    images = [
        {"id": number * 3, "file_name": f"{number}.jpg", "width": rng.randint(20, 200), "height": rng.randint(20, 200)}
        for number in range(rng.randint(1, 5))
    ]
    categories = [{"id": 0, "name": "cells", "supercategory": "none"}]
    categories += [{"id": number, "name": f"cell {number}", "supercategory": "cells"} for number in range(1, 4)]
    annotations = []
    for number in range(rng.randint(1, 12)):
        image = rng.choice(images)
        x, y = rng.uniform(-3, image["width"] - 1), rng.uniform(-3, image["height"] - 1)
        box = [x, y, rng.uniform(1, image["width"] - x + 3), rng.uniform(1, image["height"] - y + 3)]
        entry = {"id": number, "image_id": image["id"], "category_id": rng.randint(1, 3), "bbox": box}
        entry |= rng.choice([{}, {"iscrowd": 0}, {"iscrowd": 1}, {"area": box[2] * box[3]}])
        polygon = [[box[0], box[1], box[0] + box[2], box[1], box[0], box[1] + box[3]]]
        entry |= rng.choice([{}, {"segmentation": polygon}])
        annotations.append(entry)
    return {"images": images, "annotations": annotations, "categories": categories}


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container in the tree with each of its keys or positions."""
    found = []
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    for key in keys:
        found.append((tree, key))
        found += places(tree[key])
    return found


def mutate(tree: dict[str, Any], rng: random.Random) -> None:
    """Change one place: replace, remove, repeat, move a value between entries, rescale or swap numbers."""
    spots = places(tree)
    if not spots:
        return
    container, key = rng.choice(spots)
    kind = rng.choice(["replace", "replace", "replace", "remove", "repeat", "move", "corners", "normalize", "rename"])
    annotations = tree.get("annotations")
    entries = [entry for entry in annotations if isinstance(entry, dict)] if isinstance(annotations, list) else []
    boxes = [entry["bbox"] for entry in entries if isinstance(entry.get("bbox"), list) and len(entry["bbox"]) == 4]
    numeric = [box for box in boxes if all(isinstance(value, int | float) for value in box)]
    if kind == "replace":
        container[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == "remove":
        del container[key]
    elif kind == "repeat" and isinstance(container, list):
        container.insert(rng.randint(0, len(container)), copy.deepcopy(container[key]))
    elif kind == "move":
        other, other_key = rng.choice(spots)
        container[key] = copy.deepcopy(other[other_key])
    elif kind == "corners":
        for box in numeric:
            box[2:] = [box[0] + box[2], box[1] + box[3]]
    elif kind == "normalize":
        for box in numeric:
            box[:] = [value / 200 if abs(value) < 1e30 else value for value in box]
    elif kind == "rename" and isinstance(container, dict):
        container[rng.choice(["id", "bbox", "segmentation", "width", "unknown"])] = container.pop(key)


def boxes_of(index: Index) -> dict[int, list[Any]]:
    return {
        record.image_id: [
            (index.class_names[label - 1], crowd, tuple(box))
            for label, crowd, box in zip(
                record.labels.tolist(), record.crowd.tolist(), record.boxes.tolist(), strict=True
            )
        ]
        for record in index.images
    }


@pytest.mark.parametrize("start", range(0, MUTATIONS, PER_TEST))
def test_used_boxes_of_mutated_files_equal_those_of_a_slow_reader(start: int, tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    accepted = skipped = corrected = 0
    for seed in range(start, start + PER_TEST):
        rng = random.Random(seed)
        tree = sample_file(rng)
        for _ in range(rng.randint(1, 4)):
            mutate(tree, rng)
        file.write_text(json.dumps(tree))
        try:
            expected = slow_reader.used_boxes(json.loads(file.read_text()))
        except slow_reader.Refused:
            expected = None
        if expected is None:
            with pytest.raises(UserError, match=re.escape(str(file))):
                load_index(tmp_path, file, require_images=False)
            continue
        index = load_index(tmp_path, file, require_images=False)
        assert boxes_of(index) == expected, f"seed {seed}"
        summary = index.summary
        counted = summary.objects + summary.crowds + sum(number for number, _ in summary.skipped.values())
        copies = summary.notes.get("merged_boxes", (0, ""))[0]
        assert counted + copies == summary.annotations == len(tree["annotations"]), f"seed {seed}"
        assert summary.objects + summary.crowds == sum(map(len, expected.values()))
        assert json.loads(json.dumps(summary.to_json()))["objects"] == summary.objects
        assert "\n".join(summary.lines()).encode()
        accepted += 1
        skipped += bool(summary.skipped)
        corrected += bool(summary.notes)
    # The mutations reach all outcomes.
    assert accepted > PER_TEST // 4
    assert skipped > PER_TEST // 20
    assert corrected > PER_TEST // 20
