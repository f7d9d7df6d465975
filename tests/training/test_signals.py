"""Exit codes of real ``frcnn train`` processes that are stopped: in start-up, in training, and not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from frcnn.config import Config, save_config
from frcnn.training.lock import LOCK_FILE

SECONDS = 300  # for anything to happen, on a busy machine


class TrainProcess:
    """``frcnn train`` in its own process group."""

    def __init__(self, recipe: Path, *overrides: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "frcnn", "train", "--config", str(recipe), *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Without job control, a shell starts background commands, such as these tests, with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for_line(self, start: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return
        raise AssertionError(f"no line {start!r}: {self.process.communicate()[1]}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal, if any, and wait; returns exit code, the rest of standard output, and standard error."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


@pytest.fixture
def recipe(tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    save_config(tiny_config(tmp_path / "run", "data.workers=1"), file)
    return file


def test_a_stopped_run_is_distinguishable_and_the_same_command_resumes(recipe: Path, tmp_path: Path) -> None:
    run = TrainProcess(recipe, "training.epochs=1000")
    while not (tmp_path / "run" / LOCK_FILE).exists():  # the data are read; model and first step are to come
        assert run.process.poll() is None, run.process.communicate()
        os.sched_yield()
    code, _, err = run.end(signal.SIGTERM)
    assert (code, err) == (143, "frcnn: SIGTERM before the first step: stopped; rerun the same command\n")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []

    run = TrainProcess(recipe, "training.epochs=1000")
    run.wait_for_line("train step=2 ")
    code, out, _ = run.end(signal.SIGINT)
    assert code == 130
    last = out.splitlines()[-1]
    assert last.startswith("SIGINT: saved a checkpoint at step ")
    assert last.endswith("/6000; rerun the same command to resume")
    step = int(last.split()[6].partition("/")[0])

    run = TrainProcess(recipe, f"training.epochs={(step + 1) / 6}")
    code, out, err = run.end()
    assert code == 0, err
    assert f"resumed at step {step} of {step + 1}" in out
    assert out.splitlines()[-1] == f"model: {tmp_path / 'run' / 'model'}"
    assert not (tmp_path / "run" / LOCK_FILE).exists()
