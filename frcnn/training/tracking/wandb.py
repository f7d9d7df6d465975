"""Runs of Weights & Biases, on its server or in files for ``wandb sync``."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from frcnn.atomic import write_atomically

RUN_FILE = "wandb_run"  # in the run's folder: the id of the run, so that a resumed run continues it
INIT_SECONDS, FINISH_SECONDS = 30, 45


class WandbSink:
    """A run with options, metrics, images, files, and the model folder as an artifact.

    Args:
        mode: offline: files in ``wandb/`` of the folder.
        project: its name.
        run_name: None: named by the server.
        folder: that of the training run.
    """

    def __init__(self, mode: Literal["online", "offline"], project: str, run_name: str | None, folder: Path) -> None:
        self.name = "Weights & Biases"
        self._mode = mode
        self._project = project
        self._run_name = run_name
        self._folder = folder
        self._run: Any = None

    def start(self, parameters: Mapping[str, str | float]) -> None:
        import wandb

        file = self._folder / RUN_FILE
        run_id = file.read_text().strip() if file.exists() else uuid.uuid4().hex[:8]
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",  # the log is the training's own
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
        )
        self._run = wandb.init(
            project=self._project,
            name=self._run_name,
            id=run_id,
            resume="allow" if self._mode == "online" else None,
            mode=self._mode,
            dir=self._folder,
            config=dict(parameters),
            settings=settings,
        )
        write_atomically(file, run_id + "\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step}, step=step)

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        import wandb

        self._run.log({f"{name}/{number}": wandb.Image(image) for number, image in enumerate(images)}, step=step)

    def finish(self, files: Sequence[Path], succeeded: bool) -> None:
        import wandb

        for path in files:
            if path.is_dir():
                artifact = wandb.Artifact(f"{self._run.id}-{path.name}", type="model")
                artifact.add_dir(str(path))
                self._run.log_artifact(artifact)
            elif path.is_file():
                self._run.save(str(path), base_path=str(self._folder), policy="now")
        self._run.finish(exit_code=0 if succeeded else 1)
