"""Runs whose checkpoints, models and reports are in different folders, one of which may be lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.training.folders import Folders
from frcnn.training.trainer import Trainer


def test_files_are_in_their_folders_and_a_lost_model_is_written_again(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path / "unused", "training.epochs=1")
    folders = Folders(tmp_path / "output", tmp_path / "kept", (tmp_path / "model", tmp_path / "kept" / "model"))
    trainer = Trainer(config, folders)
    assert trainer.run() == tmp_path / "model"
    assert not (tmp_path / "unused").exists()
    assert {entry.name for entry in (tmp_path / "output").iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        "images",
        "report",
    }
    assert {entry.name for entry in (tmp_path / "kept").iterdir()} == {
        "step-00000006",
        "model",
        "metrics.jsonl",
        "best_detections.npz",
    }
    weights = (tmp_path / "model" / "weights.safetensors").read_bytes()
    assert (tmp_path / "kept" / "model" / "weights.safetensors").read_bytes() == weights

    assert Trainer(config, folders).best.ap == trainer.best.ap is not None
    shutil.rmtree(tmp_path / "model")
    # As when SageMaker restarts a job: checkpoints are restored, the model folder is empty.
    (tmp_path / "model").mkdir()
    again = Trainer(config, folders)
    assert (again.step, again.best, again.finished) == (6, trainer.best, True)
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == weights


def test_copies_are_restored_unless_there_are_newer_files(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "output", tmp_path / "kept", (tmp_path / "model", tmp_path / "kept" / "model"))
    folders.bring_back()  # no copies yet
    (tmp_path / "kept" / "model").mkdir(parents=True)
    (tmp_path / "kept" / "model" / "weights.safetensors").write_text("kept")
    (tmp_path / "kept" / "metrics.jsonl").write_text("kept")
    folders.bring_back()
    weights, metrics = tmp_path / "model" / "weights.safetensors", tmp_path / "output" / "metrics.jsonl"
    assert weights.read_text() == metrics.read_text() == "kept"
    weights.write_text("newer")
    metrics.write_text("newer")
    folders.bring_back()
    assert weights.read_text() == metrics.read_text() == "newer"
    folders.keep_history()
    assert (tmp_path / "kept" / "metrics.jsonl").read_text() == "newer"


def test_all_outputs_follow_the_umask(unbroken: Trainer) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in unbroken.config.output.rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, f"{path} has mode {path.stat().st_mode & 0o777:o}"


def test_history_is_not_copied_within_the_output(tmp_path: Path) -> None:
    folders = Folders.below(tmp_path)
    folders.checkpoints.mkdir()
    (tmp_path / "metrics.jsonl").write_text("records")
    folders.keep_history()
    assert list(folders.checkpoints.iterdir()) == []


def test_an_unwritable_output_is_reported_before_the_model_is_built(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be written \(File exists\); set option 'output'"):
        Trainer(tiny_config(tmp_path / "file"))
    for name, reason in (("model", "Not a directory"), ("checkpoints/model", "No such file or directory")):
        place = tmp_path / "run" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("") if name == "model" else place.symlink_to("nowhere")
        with pytest.raises(UserError, match=rf"{place} cannot be written \({reason}\); set option 'output'"):
            Folders.below(tmp_path / "run").make()
        place.unlink()
    Folders.below(tmp_path / "run").make()
    assert not (tmp_path / "run" / "model").exists()
