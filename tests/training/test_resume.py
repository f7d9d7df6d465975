"""Interrupted and resumed runs, and what is refused on resume."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from runs import Interrupted, records, variables

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.training import validation
from frcnn.training.null_progress import NullProgress
from frcnn.training.run_state import MODEL_FILES, hash_model, model_problem, repair_hashes, repair_other_files
from frcnn.training.trainer import Trainer
from frcnn.weights.model_hashes import verify_hashes, write_hashes

MakeConfig = Callable[..., Config]


def run_until_evaluation(trainer: Trainer, step: int) -> None:
    """Run; a real signal interrupts the evaluation after ``step`` at its second image."""
    images = 0

    def tick(stage: int | None = None) -> None:
        nonlocal images
        images += stage is None and trainer.step == step
        if images == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        assert images < 3, "the evaluation is interrupted at once"

    trainer.watchdog.tick = tick  # type: ignore[method-assign]
    trainer.run()
    assert (trainer.step, trainer.finished) == (step, False)


def test_a_run_interrupted_in_steps_and_evaluations_ends_with_bit_identical_weights(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """A stop during a random step of each epoch and during each evaluation, which the resumed run repeats."""
    config = tiny_config(tmp_path)
    first, second = random.randrange(5), 6 + random.randrange(4)
    print(f"interrupting during steps {first} and {second}")
    # A lag of 1, as on GPUs, takes one more step before the stop.
    for at, evaluation, lag in ((first, 6, 0), (second, 12, 1)):
        part = Interrupted(config)
        assert part.step == max(0, evaluation - 6)
        assert part.evaluation_pending == (evaluation == 12)
        part.at, part.reports.lag = at, lag
        part.run()
        assert part.step == at + 1 + lag
        part = Trainer(config)
        assert (part.step, part.evaluation_pending) == (at + 1 + lag, False)
        part.reports.lag = lag
        run_until_evaluation(part, evaluation)
        assert [record["step"] for record in records(tmp_path, "evaluation")] == list(range(6, evaluation, 6))
    last = Trainer(config)
    assert (last.step, last.evaluation_pending) == (12, True)
    last.run()
    assert last.finished
    expected, got = variables(unbroken), variables(last)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert [record["step"] for record in records(tmp_path, "train")] == list(range(1, 13))
    assert [(record["step"], record["AP"]) for record in records(tmp_path, "evaluation")] == [
        (record["step"], record["AP"]) for record in records(unbroken.config.output, "evaluation")
    ]
    again = Trainer(config)
    assert again.finished
    assert again.best.ap == unbroken.best.ap


def test_frozen_weights_are_resumed_also_from_checkpoints_of_earlier_versions(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path, train_split: Path
) -> None:
    """Earlier versions did not store what is not trained and in a list of layers."""
    weights = unbroken.config.output / "model"
    config = tiny_config(tmp_path, f"data.root={train_split}", f"weights={weights}", "backbone.freeze=3")
    first = Trainer(config)

    def saved_and_resumed(step: int) -> Trainer:
        first.step = step
        first._save(NullProgress())
        return Trainer(config)

    def assert_resumed(trainer: Trainer, step: int) -> None:
        assert trainer.step == step
        expected, got = variables(first), variables(trainer)
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, err_msg=name)

    assert_resumed(saved_and_resumed(1), 1)
    first.tracked = tf.train.Checkpoint(model=first.model, optimizer=first.optimizer)
    resumed = saved_and_resumed(2)
    assert_resumed(resumed, 2)
    message = (
        "warning: checkpoint {} of an earlier version lacks the frozen weights and the statistics of batch norms; "
        "those of {} are used"
    )
    assert message.format(tmp_path / "checkpoints" / "step-00000002", weights) in resumed.messages
    # The run's model folder is the better source.
    kernel = first.model.backbone.stages[0][0].convs[0].conv.kernel
    assert not kernel.trainable
    kernel.assign(2 * kernel)
    first.validation._write_model({"step": 3})
    resumed = saved_and_resumed(3)
    assert_resumed(resumed, 3)
    assert message.format(tmp_path / "checkpoints" / "step-00000003", tmp_path / "model") in resumed.messages


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.copytree(unbroken.config.output, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "step-00000012" / "variables.data-00000-of-00001"
    newest.write_bytes(newest.read_bytes()[:-100])
    trainer = Trainer(tiny_config(tmp_path))
    assert trainer.step == 6
    assert any("step-00000012" in message and "damaged" in message for message in trainer.messages)


def test_other_data_are_refused_on_resume(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path, shapes: Path
) -> None:
    shutil.copytree(unbroken.config.output, tmp_path / "run")
    data = shutil.copytree(shapes, tmp_path / "data")
    annotations = data / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    annotations.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"training data differ from those of checkpoint .*step-00000012"):
        Trainer(tiny_config(tmp_path / "run", f"data.root={data}"))


def test_a_finished_run_is_refused_with_other_options(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.copytree(unbroken.config.output, tmp_path, dirs_exist_ok=True)
    with pytest.raises(
        UserError,
        match=r"step-00000012 is the end of a finished run with other options \(seed \(was 0, is 7\)\), so nothing",
    ):
        Trainer(tiny_config(tmp_path, "seed=7"))
    assert Trainer(tiny_config(tmp_path, "training.log_every=5", "data.workers=1")).finished
    longer = Trainer(tiny_config(tmp_path, "optimizer.learning_rate=0.001", "training.epochs=3"))
    assert (longer.step, longer.finished) == (12, False)
    assert any(
        "with other options: " in message and "optimizer.learning_rate" in message for message in longer.messages
    )


def test_another_model_is_refused_on_resume(unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path) -> None:
    shutil.copytree(unbroken.config.output, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match="step-00000012 does not fit the model"):
        Trainer(tiny_config(tmp_path, "roi_head.fc_channels=48"))


def test_finished_run_is_not_run_again(unbroken: Trainer) -> None:
    before = (unbroken.config.output / "model" / "weights.safetensors").stat().st_mtime_ns
    assert Trainer(unbroken.config).run() == unbroken.config.output / "model"
    assert (unbroken.config.output / "model" / "weights.safetensors").stat().st_mtime_ns == before


def test_a_second_run_in_the_same_folder_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from frcnn.training.lock import RunLock\n"
        "held = RunLock.acquire(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=rf"{tmp_path} is in use by another run \(host .*, process {other.pid},"):
            Trainer(tiny_config(tmp_path))
        other.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_damaged_model_folder_is_written_again_even_if_nothing_can_be_drawn(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unbroken.config.output, tmp_path, dirs_exist_ok=True)
    model, copy = tmp_path / "model", tmp_path / "checkpoints" / "model"
    before = hash_model(model)
    (model / "weights.safetensors").write_bytes(b"")
    (model / "labels.json").unlink()
    (model / "labels.json").mkdir()
    (model / "thresholds.json").write_bytes(b"")
    trainer = Trainer(tiny_config(tmp_path))
    assert (trainer.step, trainer.best, trainer.finished) == (12, unbroken.best, True)
    assert (
        f"warning: model folder {model} is damaged (weights.safetensors is empty); it is restored from {copy}"
        in trainer.messages
    )
    assert hash_model(model) == before
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {
        path.name: path.read_bytes() for path in (unbroken.config.output / "model").iterdir()
    }

    (model / "weights.safetensors").write_bytes(b"")
    (copy / "metrics.json").write_text("{}")
    trainer = Trainer(tiny_config(tmp_path))
    assert (trainer.step, trainer.best.ap, trainer.finished) == (12, None, False)
    assert (
        f"warning: model folder {model} is damaged (weights.safetensors is empty); the next evaluation writes it again"
        in (trainer.messages)
    )

    def fail(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(validation, "draw_comparisons", fail)
    trainer.run()
    assert trainer.finished
    assert model_problem(model, trainer.validation.model_sha256) is None
    assert json.loads((model / "metrics.json").read_text())["step"] == 12
    again = Trainer(tiny_config(tmp_path))
    assert again.finished
    assert again.validation.model_sha256 == hash_model(model)


def test_every_file_of_a_model_folder_is_checked(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "config.yaml", "labels.json", "metrics.json"):
        (tmp_path / name).write_text(name)
    expected = hash_model(tmp_path)
    assert model_problem(tmp_path, expected) is None
    for name in expected:
        (tmp_path / name).write_text("other")
        assert model_problem(tmp_path, expected) == f"{name} is not the file that the run wrote"
        assert model_problem(tmp_path, {}) is None  # hashes are unknown in checkpoints of earlier versions
        (tmp_path / name).unlink()
        assert model_problem(tmp_path, {}) == f"{name} is missing"
        (tmp_path / name).write_text(name)


def test_damaged_hashes_of_an_intact_model_folder_are_written_again(tmp_path: Path) -> None:
    for name in (*MODEL_FILES, "thresholds.json"):
        (tmp_path / name).write_text(name)
    assert not repair_hashes(tmp_path)  # folders of earlier versions have no hashes
    for damage in ("", "\0", f"{'0' * 64}  labels.json\n"):
        (tmp_path / "SHA256SUMS").write_text(damage)
        assert repair_hashes(tmp_path)
        verify_hashes(tmp_path, (*MODEL_FILES, "thresholds.json"))
        assert not repair_hashes(tmp_path)


def test_damaged_thresholds_are_restored(tmp_path: Path) -> None:
    model, copy = tmp_path / "model", tmp_path / "copy"
    model.mkdir()
    for name in (*MODEL_FILES, "thresholds.json"):
        (model / name).write_text(name)
    write_hashes(model, (*MODEL_FILES, "thresholds.json"))
    shutil.copytree(model, copy)
    file, hashes = model / "thresholds.json", hash_model(model)
    assert repair_other_files(model, [copy], hashes) is None
    for damage in (b"", None):
        file.unlink() if damage is None else file.write_bytes(damage)
        reason = f"{file} is missing or damaged; "
        assert repair_other_files(model, [], hashes) == f"{reason}write it again with 'frcnn thresholds'"
        assert repair_other_files(model, [copy], hashes) == f"{reason}it is restored from {copy}"
        assert file.read_text() == "thresholds.json"
    file.unlink()
    (copy / "thresholds.json").write_text("")
    assert repair_other_files(model, [copy], hashes) == f"{reason}write it again with 'frcnn thresholds'"


def test_the_best_ap_of_other_validation_data_is_forgotten(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path, shapes: Path
) -> None:
    shutil.copytree(unbroken.config.output, tmp_path / "run")
    data = shutil.copytree(shapes, tmp_path / "data")
    annotations = data / "annotations" / "instances_val.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    annotations.write_text(json.dumps(content))
    trainer = Trainer(tiny_config(tmp_path / "run", f"data.root={data}"))
    assert (trainer.best.ap, trainer.finished) == (None, False)
    assert any(
        message.startswith(
            f"the validation data changed, so the best AP so far ({unbroken.best.ap:.4f}) is not comparable"
        )
        for message in trainer.messages
    )
