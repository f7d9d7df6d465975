"""A run whose checkpoints, models and reports go to different places, and which loses one of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from frcnn.config import Config
from frcnn.training.folders import Folders
from frcnn.training.trainer import Trainer


def test_everything_has_its_place_and_a_lost_model_is_written_again(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "unused", "training.epochs=1")
    folders = Folders(tmp_path / "output", tmp_path / "kept", (tmp_path / "model", tmp_path / "kept" / "model"))
    trainer = Trainer(config, folders)
    assert trainer.run() == tmp_path / "model"
    assert not (tmp_path / "unused").exists()
    assert {entry.name for entry in (tmp_path / "output").iterdir()} == {"config.yaml", "metrics.jsonl", "tensorboard", "pictures"}
    assert {entry.name for entry in (tmp_path / "kept").iterdir()} == {"step-00000006", "model"}
    weights = (tmp_path / "model" / "weights.safetensors").read_bytes()
    assert (tmp_path / "kept" / "model" / "weights.safetensors").read_bytes() == weights

    assert Trainer(config, folders).best_ap == trainer.best_ap is not None
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").mkdir()  # as SageMaker starts a job again: checkpoints are back, the model folder is empty
    again = Trainer(config, folders)
    assert (again.step, again.best_ap) == (6, None)
