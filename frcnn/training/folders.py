"""Where a run puts what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """The folders of one run; on most machines all are below one, in a SageMaker job each has its own fate.

    Attributes:
        output: config.yaml, metrics.jsonl, tensorboard/, pictures/.
        checkpoints: what training needs to go on.
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
