"""What tests read from a run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np

from frcnn.data.batch import Batch
from frcnn.training.null_progress import NullProgress
from frcnn.training.progress import Progress
from frcnn.training.trainer import Trainer


def records(output: Path, kind: str) -> list[dict[str, object]]:
    """Records of one kind in ``metrics.jsonl``."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["record"] == kind]


def variables(trainer: Trainer) -> dict[str, np.ndarray]:
    """All variables of model and optimizer by path."""
    # Keras numbers the optimizers of a process ("sgd_1/..."); the rest of the path identifies the variable.
    state = {variable.path.split("/", 1)[1]: variable.numpy() for variable in trainer.optimizer.variables}
    return state | {variable.path: variable.numpy() for variable in trainer.model.variables}


class Interrupted(Trainer):
    """Sends itself a real signal during step ``at``."""

    at: int

    def _start_step(self, batch: Batch, progress: Progress | NullProgress) -> None:
        if self.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        super()._start_step(batch, progress)
