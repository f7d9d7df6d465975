"""frcnn split: what is written and printed, and that nothing is replaced unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from frcnn.cli import main
from frcnn.config import Data
from frcnn.data.splits import find_split

# Ten images: a dog in each, and a cat in the last two, which are from one video.
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9, "video": i // 2} for i in range(10)],
    "annotations": [
        {"id": i, "image_id": min(i, 19 - i), "category_id": 1 + (i > 9), "bbox": [1, 1, 5, 5]}
        for i in (*range(10), 10, 11)
    ],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.json").write_text("\ufeff" + json.dumps(COCO))
    return tmp_path / "all.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["split", *arguments], catch_exceptions=False)


def test_files_and_statistics(file: Path) -> None:
    result = run("all.json", "--val", "0.2", "--by", "video", "--out", "annotations", "--stratify", "--seed", "4")
    assert result.exit_code == 0, result.output
    parts = [
        json.loads((file.parent / "annotations" / f"instances_{name}.json").read_text()) for name in ("train", "val")
    ]
    videos = [{image["video"] for image in part["images"]} for part in parts]
    assert not videos[0] & videos[1]
    assert sum(len(part["annotations"]) for part in parts) == 12
    lines = result.output.splitlines()
    assert lines[:2] == ["annotations/instances_train.json", "annotations/instances_val.json"]
    assert lines[2].split() == ["images", "groups", "objects"]
    assert lines[3].split() == ["train", "8", "4", str(len(parts[0]["annotations"]))]
    assert lines[4].split() == ["val", "2", "1", str(len(parts[1]["annotations"]))]
    assert lines[6] == "share of the objects of each class, those farthest from train  80.0% / val  20.0% first"
    assert lines[-2] == "note: val has no objects of cat"
    assert lines[-1].endswith(
        " data.train.annotations=annotations/instances_train.json"
        " data.validation.annotations=annotations/instances_val.json"
    )


def test_the_files_are_found_as_splits(file: Path) -> None:
    for name in ("train", "val", "test"):
        (file.parent / "images" / name).mkdir(parents=True)
    assert run("all.json", "--val", "0.2", "--test", "0.1", "--out", "annotations").exit_code == 0
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert find_split(Data(root=file.parent), split)[1].name == f"instances_{name}.json"


def test_the_same_again_and_nothing_is_replaced(file: Path) -> None:
    assert run("all.json", "--val", "0.3").exit_code == 0
    first = (file.parent / "instances_val.json").read_bytes()
    result = run("all.json", "--val", "0.3")
    assert result.exit_code == 2
    assert "instances_train.json exists already; give another folder with --out, or --overwrite" in result.stderr
    assert run("all.json", "--val", "0.3", "--overwrite").exit_code == 0
    assert (file.parent / "instances_val.json").read_bytes() == first


def test_the_source_is_never_replaced(file: Path) -> None:
    source = file.rename(file.parent / "instances_train.json")
    result = run("instances_train.json", "--val", "0.2", "--overwrite")
    assert result.exit_code == 2
    assert "instances_train.json is the file to divide and would be replaced" in result.stderr
    assert json.loads(source.read_text(encoding="utf-8-sig")) == COCO


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all.json", "--val", "0.5", "--test", "0.5"], "--val 0.5 and --test 0.5 leave nothing for training"),
        (["all.json", "--val", "0.2", "--by", "patient"], "--by is 'patient', which is neither a field"),
        (["broken.json", "--val", "0.2"], "broken.json is not valid JSON"),
        (["list.json", "--val", "0.2"], "list.json: the file has no lists 'images' and 'annotations'"),
        (["gone.json", "--val", "0.2"], "gone.json cannot be read"),
    ],
)
def test_mistakes(file: Path, arguments: list[str], message: str) -> None:
    (file.parent / "broken.json").write_text("{")
    (file.parent / "list.json").write_text("[]")
    result = run(*arguments)
    assert (result.exit_code, result.stderr.startswith(f"frcnn: {message}")) == (2, True), result.stderr
    assert sorted(path.name for path in file.parent.iterdir()) == ["all.json", "broken.json", "list.json"]


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan"])
def test_shares_are_between_0_and_1(file: Path, share: str) -> None:
    assert run("all.json", "--val", share).exit_code == 2
