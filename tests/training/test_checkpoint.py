"""Checkpoints: killed writers, damaged files, other models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from frcnn.errors import UserError
from frcnn.training.checkpoint import Checkpoints


def tracked(value: float, size: int = 3) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(weights=tf.Variable(tf.fill([size], value)))


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, warn=warnings.append)


def newest(checkpoints: Checkpoints) -> tuple[int, dict[str, object], list[float]]:
    """Step, state and variables of the checkpoint that a run would resume from."""
    latest = checkpoints.latest()
    assert latest is not None
    target = tracked(0.0)
    checkpoints.restore(latest, target)
    return latest.step, latest.state, target.weights.numpy().tolist()


def test_no_checkpoints(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None


def test_round_trip_and_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 10, 15):
        checkpoints.save(tracked(float(step)), step, {"best": step / 100})
    assert sorted(folder.name for folder in checkpoints.folder.iterdir()) == ["step-00000010", "step-00000015"]
    assert newest(checkpoints) == (15, {"best": 0.15}, [15.0] * 3)


def test_the_state_of_a_saved_step_can_be_replaced(checkpoints: Checkpoints) -> None:
    checkpoints.save(tracked(5.0), 5, {"best": 0.1})
    checkpoints.update_state(5, {"best": 0.2})
    assert newest(checkpoints) == (5, {"best": 0.2}, [5.0] * 3)


def test_a_writer_that_was_killed_leaves_the_previous_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    killed = checkpoints.folder / ".incomplete-step-00000002-12345"
    killed.mkdir()
    (killed / "variables.index").write_bytes(b"half")
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 1
    checkpoints.save(tracked(2.0), 2, {})
    assert not killed.exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "manifest"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(
    checkpoints: Checkpoints, warnings: list[str], damage: str
) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    newest = checkpoints.save(tracked(2.0), 2, {})
    data = newest / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(content[:-1])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "missing":
        data.unlink()
    else:
        (newest / "manifest.json").write_text('{"step": 2, "sha')
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 1
    assert len(warnings) == 1
    assert str(newest) in warnings[0]


def test_only_damaged_checkpoints_are_an_error(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(tracked(1.0), 1, {})
    (folder / "variables.index").unlink()
    with pytest.raises(
        UserError, match=r"all 1 checkpoints in .* are damaged; restore one, or delete the folder to start over"
    ):
        checkpoints.latest()


@pytest.mark.parametrize(
    "other", [tracked(0.0, size=4), tf.train.Checkpoint(weights=tf.Variable([0.0] * 3), more=tf.Variable(1.0))]
)
def test_a_checkpoint_of_another_model_is_refused(checkpoints: Checkpoints, other: tf.train.Checkpoint) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    latest = checkpoints.latest()
    assert latest is not None
    with pytest.raises(UserError, match="step-00000001 does not fit the model"):
        checkpoints.restore(latest, other)


def test_checkpoints_of_higher_steps_are_replaced(checkpoints: Checkpoints) -> None:
    """After a change to fewer steps, or with a damaged newest checkpoint, what is written now must be kept."""
    for step in (950, 1000):
        checkpoints.save(tracked(1.0), step, {})
    for step in (510, 520, 530):
        checkpoints.save(tracked(2.0), step, {})
        latest = checkpoints.latest()
        assert latest is not None
        assert latest.step == step
    assert sorted(folder.name for folder in checkpoints.folder.iterdir()) == ["step-00000520", "step-00000530"]


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    checkpoints.save(tracked(1.0), 7, {"try": 1})
    checkpoints.save(tracked(1.0), 7, {"try": 2})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.state == {"try": 2}
    assert [folder.name for folder in checkpoints.folder.iterdir()] == ["step-00000007"]


def test_copies_by_the_user_are_neither_deleted_nor_resumed_from(checkpoints: Checkpoints) -> None:
    kept = checkpoints.save(tracked(9.0), 9, {"whose": "theirs"})
    for name in ("step-00000009-mine", "step-best", "step-00000001.bak"):
        shutil.copytree(kept, checkpoints.folder / name)
    for step in (1, 2, 3):
        checkpoints.save(tracked(1.0), step, {"whose": "ours"})
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step, latest.state) == (3, {"whose": "ours"})
    assert sorted(folder.name for folder in checkpoints.folder.iterdir()) == [
        "step-00000001.bak", "step-00000002", "step-00000003", "step-00000009-mine", "step-best"
    ]  # fmt: skip


def test_a_step_of_nine_digits_is_the_newest(checkpoints: Checkpoints) -> None:
    for step in (99_999_999, 100_000_000):
        checkpoints.save(tracked(1.0), step, {})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 100_000_000


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the checkpoint of step 3 cannot be written to .*file"):
        Checkpoints(tmp_path / "file", keep=2, warn=print).save(tracked(1.0), 3, {})
