"""Where a run writes its files."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from frcnn.atomic import write_atomically
from frcnn.errors import UserError

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Folders:
    """The folders of one run. Usually all are below one; in a SageMaker job each is stored by another mechanism.

    Attributes:
        output: config.yaml, metrics.jsonl, tensorboard/, images/, report/.
        checkpoints: what resuming needs. If it is outside of the output, it may outlive it and gets a copy of
            metrics.jsonl as well.
        models: model folders to write, all alike; the first is the run's result. The second one beside the checkpoints
            preserves the best model so far when the first is lost or damaged.
    """

    output: Path
    checkpoints: Path
    models: tuple[Path, ...]

    @classmethod
    def below(cls, output: Path) -> Folders:
        """All of them in ``output``."""
        return cls(output, output / "checkpoints", (output / "model", output / "checkpoints" / "model"))

    @property
    def model(self) -> Path:
        return self.models[0]

    def make(self) -> None:
        """Create the folders of reports and checkpoints, and check that models can be written later.

        Raises:
            UserError: one of them cannot be created or written.
        """
        for folder in (self.output, self.checkpoints, *self.models):
            try:
                if folder not in self.models:
                    folder.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(folder):
                    tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise UserError(
                    f"folder {folder} cannot be written ({error.strerror}); set option 'output' to another folder"
                ) from error

    def keep_history(self) -> None:
        """Copy the records so far to the checkpoints, if these are outside of the output."""
        if self.output not in self.checkpoints.parents:
            write_atomically(self.checkpoints / METRICS_FILE, (self.output / METRICS_FILE).read_bytes())

    def bring_back(self) -> None:
        """Fill an empty model folder and output from the copies beside the checkpoints."""
        for kept in self.models[1:]:
            if kept.is_dir() and not any(self.model.glob("*.safetensors")):
                shutil.copytree(kept, self.model, dirs_exist_ok=True)
        history = self.checkpoints / METRICS_FILE
        if history.exists() and not (self.output / METRICS_FILE).exists():
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / METRICS_FILE, history.read_bytes())
