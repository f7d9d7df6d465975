"""Commands on datasets, and the check of outputs before the work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import error_of, frcnn

from frcnn.inference import Detector


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "shapes"
    assert frcnn("make-shapes", folder, "--images", "10", "--seed", "3").exit_code == 0
    return folder


def test_tile_cuts_every_split_into_a_new_folder(shapes: Path, tmp_path: Path) -> None:
    result = frcnn("tile", shapes, tmp_path / "tiles", "--tile", "100", "--empty", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"{tmp_path / 'tiles'}: train with data.root={tmp_path / 'tiles'}"
    assert "train: 8 images -> " in result.stdout
    assert "val: 2 images -> " in result.stdout
    checked = frcnn("check-dataset", tmp_path / "tiles", "--out", tmp_path / "check")
    assert checked.exit_code == 0, checked.output
    assert "exists already; give a new folder" in error_of("tile", shapes, tmp_path / "tiles", "--tile", "100")


def test_check_dataset_reports_all_splits_and_draws_them(shapes: Path, tmp_path: Path) -> None:
    result = frcnn("check-dataset", shapes, "--out", tmp_path, "--augmentations", tmp_path / "augmented.png")
    assert result.exit_code == 0
    assert "instances_train.json" in result.stdout
    assert "instances_val.json" in result.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["augmented.png", "train.png", "validation.png"]


def test_check_dataset_exits_with_one_where_something_is_bad(real_data: Path, tmp_path: Path) -> None:
    result = frcnn("check-dataset", real_data / "bccd", "--split", "train", "--out", tmp_path)
    assert result.exit_code == 1
    assert "annotation 2288" in result.stdout  # as published, without width and height


def test_outputs_are_checked_first(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, file, folder = tmp_path / "model", tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    (tmp_path / "VOC").mkdir()
    for command in (
        ("predict", shapes, "--model", model),
        ("check-dataset", shapes),
        ("export", "--model", model),
        ("import-weights", file, "--from", "torchvision"),
    ):
        for out in (file, file / "x"):
            assert f"--out is {out}, which cannot be written: {file} is a file, expected a folder" in error_of(
                *command, "--out", out
            )
    monkeypatch.setattr(Detector, "load", lambda *_: pytest.fail("the work has begun"))
    for option, command in (
        ("--json", ("evaluate", "--model", model)),
        ("--out", ("convert", "voc", tmp_path / "VOC")),
        ("--out", ("convert", "manifest", file, "--images", tmp_path)),
    ):
        message = error_of(*command, option, folder)
        assert message.startswith(
            f"frcnn: {option} is {folder}, which cannot be written: {folder} is a folder, expected a file"
        )
        assert f"{file} is a file, expected a folder" in error_of(*command, option, file / "x")
