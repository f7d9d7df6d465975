"""The file thresholds.json: who writes it, what its hash covers, and damage."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frcnn.errors import UserError
from frcnn.weights.model_hashes import write_hashes
from frcnn.weights.score_thresholds import read_thresholds, store_thresholds

DOCUMENT: dict[str, Any] = {
    "goal": "maximum F1",
    "overall": {"threshold": 0.4},
    "classes": {"a": {"threshold": 0.7}, "b": None},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text("[]")
    write_hashes(tmp_path, ["labels.json"])
    return tmp_path


def test_classes_without_a_threshold_have_the_overall_one(folder: Path) -> None:
    store_thresholds(folder, DOCUMENT)
    thresholds = read_thresholds(folder, ("b", "a"))
    assert thresholds is not None
    assert thresholds.by_class == {"b": 0.4, "a": 0.7}
    np.testing.assert_allclose(thresholds.of(np.array([2, 1, 2])), [0.7, 0.4, 0.7])
    assert str(thresholds) == "b 0.4, a 0.7 (thresholds.json: maximum F1)"


def test_the_tiles_and_the_test_options_are_part_of_the_file(folder: Path) -> None:
    stored = []
    for more in ({"tiling": {"tile": 512, "overlap": 0.25}, "test": "flip=true"}, {"tiling": None, "test": None}):
        store_thresholds(folder, {**DOCUMENT, **more})
        stored.append(read_thresholds(folder, ("a",)))
    store_thresholds(folder, DOCUMENT)  # as written before they were stored
    stored.append(read_thresholds(folder, ("a",)))
    assert [thresholds and (thresholds.tiling, thresholds.test) for thresholds in stored] == [
        ((512, 0.25), "flip=true"),
        (None, None),
        (None, None),
    ]


def test_a_model_without_the_file_has_none(folder: Path) -> None:
    assert read_thresholds(folder, ("a",)) is None


def test_the_hashes_cover_the_file_after_every_change(folder: Path) -> None:
    for value in (0.4, 0.3):
        store_thresholds(folder, {**DOCUMENT, "overall": {"threshold": value}})
        assert (folder / "SHA256SUMS").read_text().count("thresholds.json") == 1
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    (folder / "thresholds.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(UserError, match=r"thresholds\.json is damaged or was changed"):
        read_thresholds(folder, ("a", "b"))
    (folder / "thresholds.json").unlink()
    with pytest.raises(UserError, match=r"thresholds\.json is missing, but SHA256SUMS lists it"):
        read_thresholds(folder, ("a", "b"))


def test_a_folder_of_an_older_version_gets_no_hashes(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    store_thresholds(folder, DOCUMENT)
    assert not (folder / "SHA256SUMS").exists()
    assert read_thresholds(folder, ("a", "b")) is not None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "list indices"),
        (json.dumps({**DOCUMENT, "classes": {"a": {"threshold": 7}, "b": None}}), "not between 0 and 1"),
        (json.dumps({**DOCUMENT, "classes": {}}), "'a' is missing"),
        (json.dumps({**DOCUMENT, "tiling": {"tile": 512}}), "'overlap' is missing"),
    ],
)
def test_damage_is_reported(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "thresholds.json").write_text(content)
    with pytest.raises(UserError, match=rf"thresholds\.json is damaged .*{reason}.*run frcnn thresholds again"):
        read_thresholds(tmp_path, ("a", "b"))
