"""The progress reports of a run, with the tracking servers that the options ask for."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from frcnn.config import Config, option_names, save_config
from frcnn.errors import UserError
from frcnn.training.folders import METRICS_FILE, Folders
from frcnn.training.progress import CURVES_FILE, Progress
from frcnn.training.tracking.mlflow import MlflowSink
from frcnn.training.tracking.sink import BackgroundSink, Sink
from frcnn.training.tracking.wandb import WandbSink
from frcnn.weights.model_files import CONFIG

# Option -> its package, the module of it, and how to install it.
_CLIENTS = {
    "tracking.mlflow": ("mlflow", "pip install 'frcnn[mlflow]'"),
    "tracking.wandb": ("wandb", "pip install 'frcnn[wandb]'"),
}
_ARN_CLIENT = ("sagemaker_mlflow", "pip install sagemaker-mlflow")


def check_tracking(config: Config) -> None:
    """Check that the clients of the options are installed.

    Raises:
        UserError: one is not.
    """
    needed = []
    for option, client in _CLIENTS.items():
        value = getattr(config.tracking, option.removeprefix("tracking."))
        if value is not None:
            needed.append((option, *client))
            if str(value).startswith("arn:"):
                needed.append((option, *_ARN_CLIENT))
    for option, module, remedy in needed:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"option {option!r} needs the package {module.replace('_', '-')}; run {remedy}")


def open_progress(
    config: Config,
    folders: Folders,
    total_steps: int,
    start_step: int,
    budget: Callable[[], float | None],
    finished: Callable[[], bool],
) -> Progress:
    """The progress reports of rank 0, not entered yet; writes ``config.yaml``. Arguments as for :class:`Progress`."""
    output, training = folders.output, config.training
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / CONFIG)
    return Progress(
        output,
        total_steps,
        training.batch_size,
        start_step,
        training.log_every,
        budget=budget,
        finished=finished,
        parameters=parameters_of(config),
        open_sinks=lambda warn: open_sinks(config, output, warn),
        results=(output / CONFIG, output / METRICS_FILE, output / CURVES_FILE, folders.model),
    )


def open_sinks(config: Config, folder: Path, warn: Callable[[str], None]) -> list[Sink]:
    """The tracking servers of a run; each is called on a thread of its own."""
    tracking = config.tracking
    sinks: list[Sink] = []
    if tracking.mlflow:
        sinks.append(MlflowSink(tracking.mlflow, tracking.experiment, tracking.run, folder))
    if tracking.wandb:
        sinks.append(WandbSink(tracking.wandb, tracking.experiment, tracking.run, folder))
    return [BackgroundSink(sink, warn) for sink in sinks]


def parameters_of(config: Config) -> dict[str, str | float]:
    """All options by dotted name: numbers and truth values as they are, everything else as JSON."""
    tree = config.model_dump(mode="json")
    parameters: dict[str, str | float] = {}
    for name in option_names(Config):
        value = tree
        for part in name.split("."):
            value = value[part]
        parameters[name] = value if isinstance(value, str | bool | int | float) else json.dumps(value)
    return parameters
