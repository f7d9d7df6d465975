"""Runs with the options that have a state of their own: a resumed run ends with the weights of the whole one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import variables

from frcnn.config import Config
from frcnn.modeling import dynamic
from frcnn.training.lock import LOCK_FILE
from frcnn.training.null_progress import NullProgress
from frcnn.training.progress import Progress
from frcnn.training.trainer import Trainer

# Five steps each, with a checkpoint after the third.
# Half of an update is accumulated at the checkpoint. Repeated images make an epoch of 9 steps.
ADAMW_CASCADE = """
    optimizer.name=adamw optimizer.accumulation=2 optimizer.layer_rate=0.8 optimizer.decay_bias=false
    roi_head.cascade=[0.5,0.6] roi_head.box_loss=giou training.epochs=0.5556 training.evaluate_every=0.3334
    data.repeat_threshold=0.9 augment.rotation=10 augment.crop=0.5 augment.noise=5
"""
# The checkpoint is between two updates of the schedule, which follow every second step here.
DYNAMIC = """
    optimizer.nesterov=true optimizer.clip_norm=5 training.epochs=0.8334 training.evaluate_every=0.5
    roi_head.dynamic=true roi_head.convs=1 roi_head.norm=bn roi_head.fc_layers=1
"""


class CopiedAtStep3(Trainer):
    """Copies its folder when it saves the checkpoint of step 3, as it would be left if the run were killed then."""

    copy: Path

    def _save(self, progress: Progress | NullProgress) -> None:
        super()._save(progress)
        if self.step == 3 and not self.copy.exists():
            shutil.copytree(self.config.output, self.copy, ignore=shutil.ignore_patterns(LOCK_FILE))


def state(trainer: Trainer) -> dict[str, np.ndarray]:
    return variables(trainer) | {variable.name: variable.numpy() for variable in trainer.model.training_state}


@pytest.mark.parametrize("options", [ADAMW_CASCADE, DYNAMIC], ids=["adamw and cascade", "dynamic"])
def test_a_resumed_run_is_bit_identical(
    tiny_config: Callable[..., Config],
    train_split: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
) -> None:
    monkeypatch.setattr(dynamic, "WINDOW", 2)
    overrides = [f"data.root={train_split}", *options.split()]
    whole = CopiedAtStep3(tiny_config(tmp_path / "whole", *overrides))
    whole.copy = tmp_path / "killed"
    whole.run()
    resumed = Trainer(tiny_config(whole.copy, *overrides))
    assert (resumed.step, resumed.evaluation_pending) == (3, True)
    at_checkpoint = state(resumed)
    resumed.run()
    assert resumed.step == whole.step == 5
    expected, got = state(whole), state(resumed)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    # Nothing is compared that the steps after the checkpoint leave as it is, but the schedule, which is at its limits.
    unchanged = {name for name, value in expected.items() if np.array_equal(value, at_checkpoint[name])}
    assert unchanged <= {"iou:0", "beta:0"}
