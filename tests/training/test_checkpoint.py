"""Checkpoints: killed writers, damaged files, other models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from frcnn.errors import UserError
from frcnn.training.checkpoint import Checkpoint, Checkpoints
from frcnn.training.manifest import read_manifest
from frcnn.training.run_state import check_state


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


def test_no_flipped_bit_of_a_manifest_changes_what_is_resumed(checkpoints: Checkpoints, warnings: list[str]) -> None:
    """Every single bit, unless the flip leaves the content as it was (white space, letter case of an escape)."""
    state = {"best": 0.125, "nested": {"list": [1, 2], "text": "é"}}
    file = checkpoints.save(tracked(1.0), 8, state) / "manifest.json"
    intact = file.read_bytes()
    accepted = 0
    for position in range(8 * len(intact)):
        flipped = bytearray(intact)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        try:
            manifest = read_manifest(file.parent)
        except (ValueError, OSError):
            continue
        accepted += 1
        assert (manifest.step, manifest.state) == (8, state)
    assert accepted < 8 * len(intact) / 20
    file.write_bytes(intact)
    assert newest(checkpoints) == (8, state, [1.0] * 3)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: {},
        lambda content: None,
        lambda content: [],
        lambda content: {**content, "step": 2},
        lambda content: {**content, "step": True},
        lambda content: {**content, "state": None},
        lambda content: {**content, "sha256": {"../variables.index": "0" * 64}},
        *(lambda content, key=key: {k: v for k, v in content.items() if k != key} for key in
          ("format", "step", "state", "sha256", "manifest_sha256")),
    ],
)  # fmt: skip
def test_an_edited_manifest_is_damaged(
    checkpoints: Checkpoints, warnings: list[str], edit: Callable[[dict[str, Any]], object]
) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    file = checkpoints.save(tracked(8.0), 8, {}) / "manifest.json"
    file.write_text(json.dumps(edit(json.loads(file.read_text()))))
    assert newest(checkpoints) == (1, {}, [1.0] * 3)
    assert "step-00000008 is damaged (manifest.json" in warnings[0]


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000, b'{"step": ' + b"9" * 5000 + b"}", b"NaN", b'"x"']
)
def test_a_manifest_of_any_bytes_is_damaged(checkpoints: Checkpoints, warnings: list[str], text: bytes) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    (checkpoints.save(tracked(8.0), 8, {}) / "manifest.json").write_bytes(text)
    assert newest(checkpoints) == (1, {}, [1.0] * 3)
    assert len(warnings) == 1
    assert len(warnings[0]) < 400


def test_a_renamed_checkpoint_is_damaged(checkpoints: Checkpoints, warnings: list[str]) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    checkpoints.save(tracked(8.0), 8, {}).rename(checkpoints.folder / "step-00000100")
    assert newest(checkpoints) == (1, {}, [1.0] * 3)
    assert "is that of step 8" in warnings[0]


def test_a_manifest_of_an_earlier_version_is_read_without_its_own_hash(checkpoints: Checkpoints) -> None:
    file = checkpoints.save(tracked(8.0), 8, {"best": 0.5}) / "manifest.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: content[key] for key in ("step", "state", "sha256")}, indent=2))
    assert newest(checkpoints) == (8, {"best": 0.5}, [8.0] * 3)


def test_a_state_that_cannot_be_used_is_damage(tmp_path: Path, warnings: list[str]) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2, warnings.append, check_state)
    good = {"best_AP": 0.5, "data": "abc", "config": {}}
    checkpoints.save(tracked(1.0), 1, good)
    bad_states = ({}, {**good, "best_AP": "0.5"}, {**good, "best_AP": 7.0}, {**good, "data": 3})
    for step, bad in enumerate(bad_states, start=2):
        checkpoints.save(tracked(2.0), step, bad)
        assert checkpoints.latest() == Checkpoint(checkpoints.folder / "step-00000001", 1, good)
        shutil.rmtree(checkpoints.folder / f"step-{step:08d}")
    assert len(warnings) == 4


@pytest.mark.parametrize("kind", ["file", "loop", "dangling", "folder"])
def test_anything_in_the_place_of_a_checkpoint_is_replaced(
    checkpoints: Checkpoints, warnings: list[str], kind: str
) -> None:
    checkpoints.save(tracked(1.0), 1, {})
    for name in ("step-00000002", "step-00000003", ".incomplete-step-00000002-7", ".aside-7"):
        place = checkpoints.folder / name
        if kind == "file":
            place.write_text("not a checkpoint")
        elif kind == "folder":
            (place / "deep").mkdir(parents=True)
        else:
            place.symlink_to(place if kind == "loop" else checkpoints.folder / "nowhere")
    assert newest(checkpoints)[0] == 1
    checkpoints.save(tracked(2.0), 2, {})
    assert newest(checkpoints) == (2, {}, [2.0] * 3)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_folder_that_was_deleted_during_the_run_is_reported(checkpoints: Checkpoints, warnings: list[str]) -> None:
    checkpoints.folder.mkdir()
    checkpoints.save(tracked(1.0), 1, {})
    shutil.rmtree(checkpoints.folder)
    checkpoints.save(tracked(2.0), 2, {})
    assert newest(checkpoints)[0] == 2
    assert warnings == [f"warning: folder {checkpoints.folder} was deleted during the run, with its checkpoints"]


def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_of_the_new_one(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.size = 1234
    checkpoints.save(tracked(1.0), 1, {})

    def fill(self: tf.train.Checkpoint, path: str) -> None:
        Path(path).with_name("variables.data-00000-of-00001").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(
            None, None, "{{function_node __wrapped__SaveV2_dtypes_3}} No space left on device [Op:SaveV2] name: "
        )

    monkeypatch.setattr(tf.train.Checkpoint, "write", fill)
    with pytest.raises(UserError) as full:
        checkpoints.save(tracked(2.0), 2, {})
    assert re.fullmatch(
        rf"the checkpoint of step 2 cannot be written to {checkpoints.folder} \(No space left on device\); it needs "
        r"1,234 bytes, and [\d,]+ bytes are free there\. Free some space, or raise the quota, and "
        r"rerun the same command to resume .*",
        str(full.value),
    )
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]
    assert newest(checkpoints)[0] == 1


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
