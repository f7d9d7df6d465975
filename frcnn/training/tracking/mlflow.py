"""Runs on an MLflow tracking server, a folder, or SageMaker's managed MLflow."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frcnn.atomic import write_atomically

RUN_FILE = "mlflow_run"  # in the run's folder: the id of the run there, so that a resumed run continues it
PARAMETERS_PER_CALL = 100  # limit of the server
# A server that is down is reported after seconds, not after the client's hour.
CLIENT_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MlflowSink:
    """A run with parameters, metrics, images, files and the model folder as artifacts.

    Args:
        uri: of the server, a ``file:`` URI, or the ARN of a tracking server of SageMaker.
        experiment: its name; created if it does not exist.
        run_name: None: the server names it.
        folder: that of the training run.
    """

    def __init__(self, uri: str, experiment: str, run_name: str | None, folder: Path) -> None:
        self.name = "MLflow"
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._folder = folder
        self._client: Any = None
        self._run_id = ""

    def start(self, parameters: Mapping[str, str | float]) -> None:
        for name, value in CLIENT_LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self._uri)
        if self._resume():
            return
        found = self._client.get_experiment_by_name(self._experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._run_id = self._client.create_run(experiment_id, run_name=self._run_name).info.run_id
        write_atomically(self._folder / RUN_FILE, self._run_id + "\n")
        pairs = [Param(name, str(value)) for name, value in parameters.items()]
        for part in _parts(pairs, PARAMETERS_PER_CALL):
            self._client.log_batch(self._run_id, params=part)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._client.log_batch(self._run_id, metrics=[Metric(name, value, now, step) for name, value in finite.items()])

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        for number, image in enumerate(images):
            self._client.log_image(self._run_id, Image.fromarray(image), f"{name}/{number}_step_{step}.png")

    def finish(self, files: Sequence[Path], succeeded: bool) -> None:
        for path in files:
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), path.name)
            elif path.is_file():
                self._client.log_artifact(self._run_id, str(path))
        self._client.set_terminated(self._run_id, "FINISHED" if succeeded else "FAILED")

    def _resume(self) -> bool:
        """Go on in the run of the folder, if the server knows it."""
        file = self._folder / RUN_FILE
        if not file.exists():
            return False
        self._run_id = file.read_text().strip()
        known = any(run.info.run_id == self._run_id for run in self._runs())
        if known:
            self._client.update_run(self._run_id, status="RUNNING")
        return known

    def _runs(self) -> Iterator[Any]:
        from mlflow.exceptions import MlflowException

        try:
            yield self._client.get_run(self._run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _parts(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
