"""Images that two splits share by content."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from frcnn.config import Data, load_config
from frcnn.data.coco import Index, find_split, load_index
from frcnn.data.shapes import make_shapes
from frcnn.data.shared_files import HEAD, describe_shared_files, find_shared_files
from frcnn.training.shard import load_splits


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=5, seed=0)
    return load_index(*find_split(Data(root=root), "train"))


def with_files(index: Index, folder: Path, contents: list[bytes]) -> Index:
    folder.mkdir()
    records = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.jpg"
        path.write_bytes(content)
        records.append(dataclasses.replace(index.images[0], path=path))
    return dataclasses.replace(index, images=tuple(records), source=folder)


def test_shared_files_are_found_by_content(index: Index, tmp_path: Path) -> None:
    same_head = b"x" * HEAD
    train = with_files(index, tmp_path / "train", [b"one", b"two", same_head + b"a", b"two", b""])
    validation = with_files(index, tmp_path / "val", [b"six", b"two", same_head + b"b", b"twotwo"])
    assert find_shared_files(train, validation) == [(tmp_path / "train" / "1.jpg", tmp_path / "val" / "1.jpg")]
    warning = describe_shared_files(train, validation)
    assert warning is not None
    assert warning.startswith(f"1 images of {validation.source} are also images of {train.source}, byte for byte")
    (tmp_path / "val" / "1.jpg").unlink()
    assert describe_shared_files(train, validation) is None


def test_training_warns_of_shared_files(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "shapes", images=5, seed=0)
    shutil.copyfile(root / "train" / "000000.jpg", root / "val" / "000004.jpg")
    config = load_config(None, [f"data.root={root}"])
    for compare, expected in ((True, 1), (False, 0)):
        messages: list[str] = []
        load_splits(config, messages, compare_files=compare)
        assert sum("are also images of" in message for message in messages) == expected
        assert sum("annotations used as objects" in message for message in messages) == 2
