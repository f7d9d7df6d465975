"""From hyperparameters of three SDKs, a recipe and channels to one configuration."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from frcnn.config import Config
from frcnn.container.environment import Environment
from frcnn.container.job import folders, prepare, save_job, saved_job, scratch_folder
from frcnn.errors import UserError

VALUES: dict[str, Any] = {
    "training.epochs": 3, "optimizer.learning_rate": 1e-05, "optimizer.nesterov": True, "optimizer.clip_norm": None,
    "image.min_size": [640, 800], "image.resize": "pillow", "augment.scale_range": [0.5, 2.0], "seed": 7,
}  # fmt: skip
# What sagemaker 2.257.7's generic Estimator, its Framework estimators and SDK 3.27.0, and a careful person in the
# console send.
AS_SDK_V2 = {name: str(value) for name, value in VALUES.items()}
AS_JSON = {name: json.dumps(value) for name, value in VALUES.items()}
AS_TEXT = {**AS_JSON, "image.resize": "pillow", "training.epochs": " 3 ", "image.min_size": "[640,800]"}
AS_JSON_OF_TEXTS = {name: json.dumps(text) for name, text in AS_JSON.items()}
AS_TUPLES = {**AS_SDK_V2, "image.min_size": "(640, 800)", "augment.scale_range": "(0.5, 2.0)"}


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def job(base: Path, hyperparameters: dict[str, str]) -> Environment:
    config, train = base / "input" / "config", base / "input" / "data" / "train"
    config.mkdir(parents=True, exist_ok=True)
    train.mkdir(parents=True, exist_ok=True)
    (train / "annotations.json").write_text("{}")
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    (config / "inputdataconfig.json").write_text(json.dumps({"train": {"TrainingInputMode": "File"}}))
    return Environment.read({"SAGEMAKER_BASE_DIR": str(base)})


@pytest.mark.parametrize("sent", [AS_SDK_V2, AS_JSON, AS_TEXT, AS_JSON_OF_TEXTS, AS_TUPLES])
def test_encodings_of_all_sdks_are_equivalent(tmp_path: Path, sent: dict[str, str]) -> None:
    config = prepare(job(tmp_path, sent)).config
    assert (config.training.epochs, config.optimizer.learning_rate, config.optimizer.nesterov, config.seed) == (
        3,
        1e-05,
        True,
        7,
    )
    assert (config.optimizer.clip_norm, config.image.min_size) == (None, (640, 800))
    assert (config.image.resize, config.augment.scale_range) == ("pillow", (0.5, 2.0))
    changed = config.model_copy(update={"data": Config().data, "output": Config().output})
    assert changed == prepare(job(tmp_path, AS_JSON)).config.model_copy(
        update={"data": Config().data, "output": Config().output}
    )


def test_places_are_the_jobs_and_hyperparameters_win_over_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "input" / "data" / "config").mkdir(parents=True)
    recipe = "output: runs/x\ntraining: {epochs: 5, batch_size: 8}\ndata: {root: /laptop/data, workers: 3}\n"
    (tmp_path / "input" / "data" / "config" / "recipe.yaml").write_text(recipe)
    environment = job(tmp_path, {"training.epochs": "9"})
    channels = {"train": {}, "config": {}}
    (tmp_path / "input" / "config" / "inputdataconfig.json").write_text(json.dumps(channels))
    config = prepare(Environment.read({"SAGEMAKER_BASE_DIR": str(tmp_path)})).config
    assert (config.training.epochs, config.training.batch_size, config.data.workers) == (9, 8, 3)
    assert (config.output, config.data.root) == (tmp_path / "output" / "data", None)
    assert config.data.train.annotations == tmp_path / "input" / "data" / "train" / "annotations.json"
    save_job(environment, config)
    assert saved_job(environment).config == config


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"training.epoch": "3"}, "unknown option 'training.epoch'; did you mean 'training.epochs'?"),
        ({"training.epochs": "many"}, "hyperparameters: option 'training.epochs' is 'many'; expected"),
        ({"output": "/elsewhere"}, "hyperparameter 'output' cannot be set"),
    ],
)
def test_invalid_hyperparameters_are_reported_in_one_line(tmp_path: Path, sent: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(job(tmp_path, sent))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hyperparameters_of_the_toolkit_are_not_options(tmp_path: Path) -> None:
    sent = {
        "sagemaker_mpi_enabled": "true",
        "sagemaker_region": '"us-east-1"',
        "_tuning_objective_metric": '"AP"',
        "sagemaker_mpi_enable": "1",
    }
    assert prepare(job(tmp_path, sent)).messages == (
        "hyperparameter 'sagemaker_mpi_enable' is unknown to SageMaker's toolkit and has no effect",
    )


def test_data_root_hyperparameter_needs_no_channel(tmp_path: Path) -> None:
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps({"data.root": "/mnt/coco"}))
    config = prepare(Environment.read({"SAGEMAKER_BASE_DIR": str(tmp_path)})).config
    assert config.data.root == Path("/mnt/coco")


def test_checkpoints_are_not_uploaded_without_a_checkpoint_location(tmp_path: Path) -> None:
    environment = job(tmp_path, {})
    assert folders(environment).checkpoints == scratch_folder(environment.base) / "checkpoints"
    assert folders(environment).models == (tmp_path / "model",)
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    with_checkpoints = folders(job(tmp_path, {}))
    assert (with_checkpoints.checkpoints, with_checkpoints.models) == (kept, (tmp_path / "model", kept / "model"))


def test_missing_annotations_of_a_sharded_channel_are_explained_by_the_sharding(tmp_path: Path) -> None:
    environment = job(tmp_path, {"data.sharded": "true"})
    (tmp_path / "input" / "data" / "train" / "annotations.json").unlink()
    sharded = [dataclasses.replace(channel, distribution="ShardedByS3Key") for channel in environment.channels]
    two = dataclasses.replace(environment.resources, hosts=("algo-1", "algo-2"))
    with pytest.raises(UserError, match="channel 'train' is ShardedByS3Key over 2 hosts"):
        prepare(dataclasses.replace(environment, channels=tuple(sharded), resources=two))


def test_a_second_job_on_the_same_base_folder_starts_with_an_empty_private_scratch_folder(tmp_path: Path) -> None:
    environment = job(tmp_path, {})
    scratch = scratch_folder(environment.base)
    for leftover in (scratch / "model" / "weights.safetensors", scratch / "checkpoints" / "step_8" / "manifest.json"):
        leftover.parent.mkdir(parents=True)
        leftover.write_text("of the first job")
    prepare(environment)
    assert list(scratch.iterdir()) == []
    assert scratch.stat().st_mode & 0o777 == 0o700
    scratch.rmdir()
    scratch.symlink_to(tmp_path)  # prepared by another user of the machine
    prepare(environment)
    assert not scratch.is_symlink()
    assert tmp_path.is_dir()
