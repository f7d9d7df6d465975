"""Where a run puts what it makes."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from frcnn.errors import UserError

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Folders:
    """The folders of one run; on most machines all are below one, in a SageMaker job each has its own fate.

    Attributes:
        output: config.yaml, metrics.jsonl, tensorboard/, pictures/.
        checkpoints: what training needs to go on; where they are not in the output, which they may outlive, metrics.jsonl too.
        models: model folders to write, all alike; the first is the run's result. A further one beside the checkpoints
            brings the best model so far through a loss of the first.
    """

    output: Path
    checkpoints: Path
    models: tuple[Path, ...]

    @classmethod
    def below(cls, output: Path) -> Folders:
        """All of them in ``output``."""
        return cls(output, output / "checkpoints", (output / "model",))

    @property
    def model(self) -> Path:
        return self.models[0]

    def make(self) -> None:
        """Make the folders that a run writes into while it lasts.

        Raises:
            UserError: one of them cannot be made or written into.
        """
        for folder in (self.output, self.checkpoints):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise UserError(
                    f"{folder} cannot be written into ({error.strerror}); choose another place: option 'output'"
                ) from error

    def keep_history(self) -> None:
        """Leave what was recorded so far beside checkpoints that are not in the output."""
        if self.output not in self.checkpoints.parents:
            _copy_whole(self.output / METRICS_FILE, self.checkpoints / METRICS_FILE)

    def bring_back(self) -> None:
        """Fill model folder and output, where they are empty, with what was kept beside the checkpoints."""
        for kept in self.models[1:]:
            if kept.is_dir() and not any(self.model.glob("*.safetensors")):
                shutil.copytree(kept, self.model, dirs_exist_ok=True)
        history = self.checkpoints / METRICS_FILE
        if history.exists() and not (self.output / METRICS_FILE).exists():
            self.output.mkdir(parents=True, exist_ok=True)
            _copy_whole(history, self.output / METRICS_FILE)


def _copy_whole(source: Path, target: Path) -> None:
    """Copy, so that the target is never half of it."""
    aside = target.with_name(target.name + ".new")
    shutil.copyfile(source, aside)
    os.replace(aside, target)
