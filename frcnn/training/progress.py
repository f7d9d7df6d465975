"""Progress reports of a run: progress bar or log lines, TensorBoard, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from frcnn.atomic import write_atomically
from frcnn.evaluation.curves import plot_training
from frcnn.training.folders import METRICS_FILE
from frcnn.training.metric_lines import metric_line

TENSORBOARD_FOLDER = "tensorboard"
CURVES_FILE = "images/curves.png"


class Progress:
    """Reports the steps of one run to the console and to files in its folder.

    On a terminal it shows a progress bar with throughput, losses, learning rate and remaining time; elsewhere each
    record is one line of ``key=value`` pairs. Each record is also a line of ``metrics.jsonl`` and scalars of
    TensorBoard.

    Args:
        folder: the run's folder; gets ``metrics.jsonl``, ``tensorboard/`` and ``images/curves.png``.
        total_steps: steps of the whole run.
        batch_size: images per step over all processes.
        start_step: steps already taken; records of later steps (a run killed after its last checkpoint repeats them)
            are removed from ``metrics.jsonl``.
        log_every: steps between records; the last step always has one.
        stream: where to write; standard output if None.
    """

    def __init__(
        self,
        folder: Path,
        total_steps: int,
        batch_size: int,
        start_step: int = 0,
        log_every: int = 20,
        stream: TextIO | None = None,
    ) -> None:
        self._folder = folder
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._start_step = start_step
        self._log_every = log_every
        self._stream = stream or sys.stdout
        self._pending: list[Mapping[str, Any]] = []  # losses since the last record
        self._pending_seconds = 0.0

    def __enter__(self) -> Progress:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._metrics = MetricsFile(self._folder / METRICS_FILE, self._start_step)
        self._summaries = tf.summary.create_file_writer(str(self._folder / TENSORBOARD_FOLDER))
        self._bar = None
        if _shows_bar(self._stream):
            self._bar = tqdm(
                total=self._total_steps,
                initial=self._start_step,
                unit="step",
                dynamic_ncols=True,
                file=self._stream,
                smoothing=0.05,
            )
        self._clock = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._summaries.close()
        self._metrics.close()

    def step(self, step: int, losses: Mapping[str, Any], learning_rate: Any) -> None:
        """Count a finished step; every ``log_every`` steps, record the means since the last record.

        Args:
            step: steps taken so far in the run, this one included.
            losses: scalars by name.
            learning_rate: rate of this step; a tensor is read only when a record is due.
        """
        now = time.perf_counter()
        self._pending_seconds += now - self._clock
        self._clock = now
        self._pending.append(losses)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if step % self._log_every == 0 or step == self._total_steps:
            self._record_steps(step, float(learning_rate))

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation and draw the curves so far.

        Args:
            metrics: numbers by name, None where undefined; nested tables go to the file only.
        """
        if self._metrics.append("evaluation", step, metrics):
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            self._scalars(step, {f"evaluation/{name}": value for name, value in numbers.items()})
            self._print(metric_line("evaluation", {"step": step, **numbers}))
            plot_training(read_records(self._folder / METRICS_FILE), self._folder / CURVES_FILE)
        self._clock = time.perf_counter()  # throughput does not count the time of evaluations

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        """Show ``[H, W, 3]`` uint8 images of any sizes in TensorBoard."""
        with self._summaries.as_default():
            for number, image in enumerate(images):
                tf.summary.image(f"{name}/{number}", image[None], step=step)
        self._summaries.flush()
        self._clock = time.perf_counter()

    def checkpoint(self, step: int) -> None:
        """Log that a checkpoint of this step exists, from which a job moved to another machine resumes."""
        if self._bar is None:
            self._print(metric_line("checkpoint", {"step": step}))
        self._clock = time.perf_counter()

    def message(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        self._print(text)
        self._clock = time.perf_counter()

    def _record_steps(self, step: int, learning_rate: float) -> None:
        steps = len(self._pending)
        losses = {name: sum(float(losses[name]) for losses in self._pending) / steps for name in self._pending[0]}
        # Reading the losses waited for the device: that time belongs to these steps as well.
        self._pending_seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        seconds = max(self._pending_seconds, 1e-9)
        speed = steps * self._batch_size / seconds
        self._pending, self._pending_seconds = [], 0.0

        values = {**losses, "learning_rate": learning_rate, "images_per_second": speed}
        self._metrics.append("train", step, values)
        self._scalars(step, {f"train/{name}": value for name, value in values.items()})
        if self._bar is not None:
            shown = {name: f"{value:.3f}" for name, value in losses.items()}
            self._bar.set_postfix({"images/s": f"{speed:.1f}", **shown, "lr": f"{learning_rate:.2g}"})
        else:
            left = (self._total_steps - step) * seconds / steps
            self._print(
                metric_line("train", {"step": step, "steps": self._total_steps, **values, "seconds_left": round(left)})
            )

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._summaries.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._summaries.flush()

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            return
        # One write per line, so that lines of several processes do not interleave.
        self._stream.write(text + "\n")
        self._stream.flush()


class NullProgress:
    """The :class:`Progress` of ranks that do not report."""

    def __enter__(self) -> NullProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, step: int, losses: Mapping[str, Any], learning_rate: Any) -> None:
        pass

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        pass

    def checkpoint(self, step: int) -> None:
        pass

    def message(self, text: str) -> None:
        pass


class MetricsFile:
    """``metrics.jsonl``: one JSON object per record with ``record`` (its kind), ``step`` and the values; append-only.

    Args:
        file: created if it does not exist.
        start_step: records of later steps are removed, and so is an incomplete last line.
    """

    def __init__(self, file: Path, start_step: int = 0) -> None:
        kept = [record for record in read_records(file) if record["step"] <= start_step]
        self._recorded = {(record["record"], record["step"]) for record in kept}
        write_atomically(file, "".join(json.dumps(record) + "\n" for record in kept))
        self._lines = file.open("a")

    def append(self, kind: str, step: int, values: Mapping[str, Any]) -> bool:
        """Write one record; returns False if the file already has one of this kind and step."""
        if (kind, step) in self._recorded:
            return False
        self._recorded.add((kind, step))
        self._lines.write(
            json.dumps({"record": kind, "step": step, **_null_if_not_finite(values)}, allow_nan=False) + "\n"
        )
        self._lines.flush()
        return True

    def close(self) -> None:
        self._lines.close()


def read_records(file: Path) -> list[dict[str, Any]]:
    """Records of a ``metrics.jsonl`` in order, without an incomplete last line; empty if the file does not exist."""
    if not file.exists():
        return []
    records = []
    for line in file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _shows_bar(stream: TextIO) -> bool:
    """Whether the stream can show a progress bar.

    mpirun gives ranks pseudo-terminals without a width and forwards what is written to them line by line.
    """
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # a stream without a file descriptor, as in tests
        return True


def _null_if_not_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _null_if_not_finite(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
