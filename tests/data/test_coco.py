from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frcnn.config import Data
from frcnn.data import coco
from frcnn.errors import UserError


def annotation(
    id: Any = 1, image_id: Any = 1, category_id: Any = 7, bbox: Any = (10, 20, 30, 40), **more: Any
) -> dict[str, Any]:
    return {
        "id": id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox) if isinstance(bbox, tuple) else bbox,
        **more,
    }


def image(id: Any = 1, file_name: Any = "a.jpg", width: Any = 100, height: Any = 80) -> dict[str, Any]:
    return {"id": id, "file_name": file_name, "width": width, "height": height}


CATEGORIES = [{"id": 90, "name": "zebra"}, {"id": 7, "name": "ant"}]


def load(folder: Path, images: Any = None, annotations: Any = (), categories: Any = None, **options: Any) -> coco.Index:
    """Write the three tables as a COCO file and load it without image files."""
    file = folder / "instances.json"
    tables = {
        "images": [image()] if images is None else images,
        "annotations": list(annotations),
        "categories": categories or CATEGORIES,
    }
    file.write_text(json.dumps(tables))
    return coco.load_index(folder, file, **{"require_images": False, **options})


def test_boxes_labels_areas_and_order(tmp_path: Path) -> None:
    index = load(
        tmp_path,
        images=[image(5, "b.jpg"), image(2, "sub/a.jpg")],
        annotations=[
            annotation(9, 5, 90, (10, 20, 30, 40), area=77.5),
            annotation(4, 5, 7, (-5, 70, 20, 30), iscrowd=1),  # reaches over two edges
            annotation(3, 2, 7, (1, 2, 3, 4), area=None),
        ],
    )
    assert index.class_names == ("ant", "zebra")
    assert index.category_ids == (7, 90)
    assert [record.image_id for record in index.images] == [2, 5]
    assert index.images[0].path == tmp_path / "sub" / "a.jpg"
    first, second = index.images
    assert first.boxes.tolist() == [[1, 2, 4, 6]]
    assert first.areas.tolist() == [12]
    assert second.annotation_ids.tolist() == [4, 9]
    assert second.boxes.tolist() == [[0, 70, 15, 80], [10, 20, 40, 60]]
    assert second.labels.tolist() == [1, 2]
    assert second.crowd.tolist() == [True, False]
    assert second.areas.tolist() == [600, 77.5]  # 20 x 30 as annotated, not as clipped
    assert index.summary.notes["clipped_boxes"][0] == 1
    assert index.problems == ()
    assert (second.boxes.dtype, second.labels.dtype, second.crowd.dtype, second.annotation_ids.dtype) == (
        np.float32,
        np.int32,
        np.bool_,
        np.int64,
    )
    with pytest.raises(ValueError, match=r"read-only"):
        second.boxes[0, 0] = 3


def test_image_without_objects_has_empty_arrays(tmp_path: Path) -> None:
    record = load(tmp_path).images[0]
    assert record.boxes.shape == (0, 4)
    assert record.labels.shape == (0,)


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (annotation(2, bbox=(1, 1, 0, 5)), "no_area", "bbox [1, 1, 0, 5] has no area"),
        (annotation(2, bbox=(50, 1, -3, 5)), "no_area", "[50, 1, -3, 5]"),
        (annotation(2, bbox=(100, 1, 5, 5)), "outside_image", "outside the image of 100 x 80 pixels"),
        (annotation(2, bbox=(5, -9, 5, 9)), "outside_image", "outside"),
        (annotation(2, bbox=(float("nan"), 1, 5, 5)), "not_finite", "[nan, 1, 5, 5] holds a number that is not finite"),
        (annotation(2, bbox=(1, 1, float("inf"), 5)), "not_finite", "inf"),
        (annotation(2, image_id=3), "unknown_image", "image 3, which 'images' does not list"),
        (annotation(2, category_id=8), "unknown_category", "category 8"),
        (annotation(2, bbox=(1, 1, 5)), "malformed", "bbox [1, 1, 5]"),
        (annotation(2, bbox=["one", 1, 5, 5]), "malformed", "four numbers"),
        (annotation(2, bbox=None), "no_box", "bbox null; expected four numbers, or a 'segmentation' with an area"),
        (annotation(2, bbox=(50, 1, 1e-9, 5)), "no_area", "has no area"),
        (annotation(2, image_id=1.5), "malformed", "image_id 1.5"),
        (annotation(2, category_id=None), "malformed", "category_id null"),
        (annotation(2, iscrowd="no"), "malformed", '"no"'),
        (annotation(2, image_id=2**70), "malformed", "expected an integer"),
        (17, "malformed", "entry 1 of 'annotations' is 17"),
    ],
)
def test_bad_annotation_is_skipped_and_named_or_refused(tmp_path: Path, bad: Any, kind: str, words: str) -> None:
    index = load(tmp_path, annotations=[annotation(1), bad])
    (problem,) = index.problems
    assert problem.kind == kind
    assert words in problem.reason
    assert index.images[0].annotation_ids.tolist() == [1]
    with pytest.raises(UserError, match=r"1 bad annotations .* set data.on_bad_annotation=skip"):
        load(tmp_path, annotations=[annotation(1), bad], on_bad_annotation="error")


def test_polygons_do_not_matter(tmp_path: Path) -> None:
    plain = load(tmp_path, annotations=[annotation()])
    assert load(tmp_path, annotations=[annotation(segmentation=[[1, 2, 3, 4, 5, 6]])]).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"images": [image("one")]}, r"entry 0 of 'images' has the id \"one\""),
        ({"images": [image(-4)]}, "id -4; expected an integer of 0 or more"),
        ({"images": [image(1), image(1, "b.jpg")]}, "image id 1 is used for both 'a.jpg' and 'b.jpg'"),
        ({"images": [image(file_name=None)]}, "image 1 has the file_name null"),
        ({"images": [image(width=0)]}, "size 0 x 80, and its file cannot be used instead: .*a.jpg does not exist"),
        ({"images": [image(file_name="../secret.jpg")]}, "leads out of the images folder"),
        ({"images": [image(file_name="sub/../../x.jpg")]}, "leads out"),
        ({"images": [image(file_name="/etc/x.jpg")]}, "leads out"),
        ({"images": [image(file_name="C:\\x.jpg")]}, "leads out"),
        ({"images": [image(file_name="sub\\..\\..\\x.jpg")]}, "leads out"),
        ({"images": [image(file_name="a\0.jpg")]}, "characters that no file name can have"),
        ({"images": [image(file_name="a\ud800.jpg")]}, "characters that no file name can have"),
        ({"images": []}, "'images' is empty"),
        ({"images": {}}, "no list 'images'"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "category id 1 is used for both 'a' and 'b'",
        ),
        ({"categories": [{"id": "one", "name": "a"}]}, "entry 0 of 'categories'"),
        ({"categories": [{"id": 1}]}, "entry 0 of 'categories'"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, tables: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(tmp_path, **tables)


def test_names_with_dots_and_folders_are_fine(tmp_path: Path) -> None:
    assert (
        load(tmp_path, images=[image(file_name="day..1/a..b.jpg")]).images[0].path == tmp_path / "day..1" / "a..b.jpg"
    )


def test_broken_json_names_file_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text('{"images": [],\n "annotations": [1, ]}')
    with pytest.raises(UserError, match=r"instances.json is not valid JSON: line 2, column 2[01]: "):
        coco.load_index(tmp_path, file)
    file.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(UserError, match=r"not UTF-8 text .byte 12."):
        coco.load_index(tmp_path, file)
    file.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"nested too deeply|not valid JSON"):
        coco.load_index(tmp_path, file)


def test_missing_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "3.jpg").touch()
    images = [image(i, f"sub/{i}.jpg") for i in range(9)]
    with pytest.raises(
        UserError, match=r"8 of the 9 images .*: sub/0.jpg, sub/1.jpg, sub/2.jpg, sub/4.jpg, sub/5.jpg and 3 more"
    ):
        load(tmp_path, images=images, require_images=True)


def test_repeated_class_names_are_numbered(tmp_path: Path) -> None:
    index = load(
        tmp_path, categories=[{"id": id, "name": name} for id, name in enumerate(["dog", "dog (2)", "dog", "dog"])]
    )
    assert index.class_names == ("dog", "dog (2)", "dog (3)", "dog (4)")


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    train = load(tmp_path, categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}])
    other = load(
        tmp_path,
        categories=[{"id": 11, "name": "c"}, {"id": 12, "name": "a"}],
        annotations=[annotation(1, category_id=11), annotation(2, category_id=12)],
    )
    matched = coco.check_same_classes(train, other)
    assert matched.class_names == ("a", "b", "c")
    assert matched.images[0].labels.tolist() == [3, 1]
    assert [matched.category_ids[k - 1] for k in (3, 1)] == [11, 12]
    assert len(set(matched.category_ids)) == 3
    assert coco.check_same_classes(other, train).class_names == ("c", "a")  # no annotation uses b
    used = load(tmp_path, categories=[{"id": 2, "name": "b"}], annotations=[annotation(1, category_id=2)])
    with pytest.raises(
        UserError, match=r"classes that the model or training file does not have: 'b'; expected only 'c'"
    ):
        coco.check_same_classes(other, used)


def test_fingerprint_sees_what_training_sees(tmp_path: Path) -> None:
    base = {"images": [image(1), image(2, "b.jpg")], "annotations": [annotation(1), annotation(2, 2)]}
    fingerprint = load(tmp_path, **base).fingerprint
    turned = {"images": base["images"][::-1], "annotations": base["annotations"][::-1]}
    assert load(tmp_path, **turned).fingerprint == fingerprint  # the order of entries is not seen
    changes = [
        dict(base, annotations=[annotation(1, bbox=(10, 20, 30, 41)), annotation(2, 2)]),
        dict(base, annotations=[annotation(1, category_id=90), annotation(2, 2)]),
        dict(base, annotations=[annotation(1), annotation(2, 1)]),
        dict(base, images=[image(1), image(2, "c.jpg")]),
        dict(base, categories=[{"id": 7, "name": "bee"}, {"id": 90, "name": "zebra"}]),
    ]
    assert len({fingerprint, *(load(tmp_path, **change).fingerprint for change in changes)}) == 6


def test_bccd_has_one_broken_box_in_train_and_one_in_validation(real_data: Path) -> None:
    found = {}
    for split in ("train", "validation", "test"):
        index = coco.load_index(*coco.find_split(Data(root=real_data / "bccd"), split))
        found[split] = (len(index.images), [(problem.kind, problem.annotation_id) for problem in index.problems])
    assert found == {"train": (205, [("no_area", 2288)]), "validation": (87, [("no_area", 887)]), "test": (72, [])}


def test_coco128_keeps_sparse_ids_crowds_and_images_without_objects(real_data: Path) -> None:
    index = coco.load_index(*coco.find_split(Data(root=real_data / "coco128"), "train"))
    raw = json.loads(index.source.read_text())
    assert len(index.class_names) == 80
    assert index.category_ids[-1] == 90
    assert index.class_names[-1] == "toothbrush"
    assert sum(len(record.labels) == 0 for record in index.images) == 2
    assert (
        sum(record.crowd.sum() for record in index.images) == sum(entry["iscrowd"] for entry in raw["annotations"]) > 0
    )
    by_id = {entry["id"]: entry for entry in raw["annotations"]}
    for record in index.images:
        for box, label, number in zip(record.boxes, record.labels, record.annotation_ids, strict=True):
            x, y, width, height = by_id[number]["bbox"]
            assert index.category_ids[label - 1] == by_id[number]["category_id"]
            np.testing.assert_allclose(
                box, [max(x, 0), max(y, 0), min(x + width, record.width), min(y + height, record.height)], rtol=1e-6
            )
