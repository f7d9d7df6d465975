"""Division of COCO files: groups stay together, shares are kept, and the result depends on nothing else."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.data.split_dataset import split_dataset
from frcnn.errors import UserError

HALVES = {"train": 0.5, "val": 0.5}
USUAL = {"train": 0.8, "val": 0.2}


def coco(*classes: str, names: list[str] | None = None, **fields: list[Any]) -> dict[str, Any]:
    """An image per text, with an object per letter: a is category 1."""
    images = [
        {
            "id": number,
            "file_name": names[number] if names else f"{number}.jpg",
            **{k: v[number] for k, v in fields.items()},
        }
        for number in range(len(classes))
    ]
    objects = [(number, ord(letter) - 96) for number, text in enumerate(classes) for letter in text]
    annotations = [{"id": i, "image_id": image, "category_id": c} for i, (image, c) in enumerate(objects)]
    categories = [{"id": number, "name": chr(96 + number)} for number in range(1, 27)]
    return {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": categories}


def members(tables: dict[str, Any]) -> dict[str, list[str]]:
    return {split: [image["file_name"] for image in part["images"]] for split, part in tables.items()}


def test_every_image_and_annotation_is_in_one_split_with_everything_else() -> None:
    content = coco("ab", "", "a", "b", "aab")
    tables = split_dataset(content, USUAL).tables
    assert {name: len(files) for name, files in members(tables).items()} == {"train": 4, "val": 1}
    for key in ("images", "annotations"):
        found = [entry["id"] for part in tables.values() for entry in part[key]]
        assert sorted(found) == [entry["id"] for entry in content[key]]
    for part in tables.values():
        assert {a["image_id"] for a in part["annotations"]} <= {image["id"] for image in part["images"]}
        assert (part["info"], part["categories"]) == (content["info"], content["categories"])


def test_seed_and_order() -> None:
    content = coco(*["a"] * 40)
    first = members(split_dataset(content, USUAL, seed=1).tables)
    shuffled = {**content, "images": random.Random(0).sample(content["images"], 40)}
    again = members(split_dataset(shuffled, USUAL, seed=1).tables)
    assert {name: set(files) for name, files in first.items()} == {name: set(files) for name, files in again.items()}
    assert first != members(split_dataset(content, USUAL, seed=2).tables)
    # In the order of sha256("1 NAME"), every image to the split that lacks most; a change would move users' images.
    assert set(first["val"]) == {f"{number}.jpg" for number in (12, 13, 18, 20, 25, 27, 37, 39)}


def test_prefix_of_the_file_name() -> None:
    """Augmented copies of one image, as Roboflow names them."""
    names = [f"{image}_jpg.rf.{copy:04}.jpg" for image in range(10) for copy in range(3)]
    files = members(split_dataset(coco(*["a"] * 30, names=names), USUAL, by=".rf.").tables)
    assert {split: Counter(name.partition("_")[0] for name in part) for split, part in files.items()} == {
        "train": Counter({name.partition("_")[0]: 3 for name in files["train"]}),
        "val": Counter({name.partition("_")[0]: 3 for name in files["val"]}),
    }
    assert (len(files["train"]), len(files["val"])) == (24, 6)


def test_field_of_the_image_table() -> None:
    patients = [7, 7, 7, "x", "x", 1.5, None, None]
    division = split_dataset(coco(*["a"] * 8, patient=patients), HALVES, by="patient")
    together = [
        {patients[int(name[0])] for name in part if int(name[0]) < 6} for part in members(division.tables).values()
    ]
    assert not together[0] & together[1]
    assert [len(part) for part in members(division.tables).values()] == [4, 4]
    assert division.notes == ["2 images without 'patient' are groups of their own"]


def test_stratified_halves_of_two_classes() -> None:
    """8 images of a common class, 4 of a rare one: each half gets 4 and 2, whatever the seed."""
    for seed in range(5):
        division = split_dataset(coco(*["a"] * 8, *["b"] * 4), HALVES, stratify=True, seed=seed)
        counts = [Counter(a["category_id"] for a in part["annotations"]) for part in division.tables.values()]
        assert counts == [{1: 4, 2: 2}, {1: 4, 2: 2}]


def test_stratification_keeps_shares_of_objects() -> None:
    """300 images with 3 classes of 60, 30 and 10 %, in bursts: each class within one image's worth of a fifth."""
    generator = random.Random(3)
    texts = ["".join(generator.choices("abc", (6, 3, 1), k=generator.randint(0, 6))) for _ in range(300)]
    division = split_dataset(coco(*texts), USUAL, stratify=True)
    totals = Counter("".join(texts))
    found = Counter(chr(96 + a["category_id"]) for a in division.tables["val"]["annotations"])
    for letter, total in totals.items():
        assert found[letter] == pytest.approx(0.2 * total, abs=6)
    assert len(division.tables["val"]["images"]) == pytest.approx(60, abs=6)


def test_a_rare_class_is_trained_on() -> None:
    division = split_dataset(coco(*["a"] * 20, "az"), USUAL, stratify=True)
    assert any(a["category_id"] == 26 for a in division.tables["train"]["annotations"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text("abc", max_size=3), st.integers(0, 6)), min_size=21, max_size=40),
    st.booleans(),
    st.integers(0, 3),
)
def test_groups_are_never_divided(images: list[tuple[str, int]], stratify: bool, seed: int) -> None:
    content = coco(*[text for text, _ in images], video=[video for _, video in images])
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    if len({video for _, video in images}) < 3:
        with pytest.raises(UserError, match="groups of images cannot be divided into 3 splits"):
            split_dataset(content, shares, by="video", stratify=stratify, seed=seed)
        return
    tables = split_dataset(content, shares, by="video", stratify=stratify, seed=seed).tables
    videos = [{image["video"] for image in part["images"]} for part in tables.values()]
    assert all(videos)
    assert sum(map(len, videos)) == len(set().union(*videos))
    assert sum(len(part["images"]) for part in tables.values()) == len(images)


def test_annotations_without_an_image_are_noted() -> None:
    content = coco("a", "a")
    content["annotations"] += [{"id": 9, "image_id": 99, "category_id": 1}, "text"]
    division = split_dataset(content, HALVES)
    assert sum(len(part["annotations"]) for part in division.tables.values()) == 2
    assert division.notes[0].startswith("2 annotations without a listed image are in no split; clean the file first")


@pytest.mark.parametrize(
    ("content", "by", "message"),
    [
        ([], None, "has no lists 'images' and 'annotations'"),
        ({"images": [{"id": 1}], "annotations": []}, None, "entry 0 of 'images' is .* clean the file first"),
        ({"images": [7], "annotations": []}, None, "entry 0 of 'images' is 7"),
        (coco("a", "a", names=["x.jpg", "x.jpg"]), None, r"image 1 \('x.jpg'\) is listed twice"),
        (coco("a"), None, "1 groups of images cannot be divided into 2 splits"),
        (coco(), "patient", "0 groups of images cannot be divided into 2 splits"),
        (coco("a", "a", size=[[1], [2]]), "size", r"--by is 'size', .*\(file_name, size\) nor part of a file name"),
        (coco("a", "a"), "patient", r"--by is 'patient', which is neither a field .* '0\.jpg'"),
    ],
)
def test_mistakes(content: Any, by: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_dataset(content, HALVES, by=by)
