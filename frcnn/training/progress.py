"""What a run says while it trains: a bar or one-line records, TensorBoard, and ``metrics.jsonl``."""

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

from frcnn.evaluation.curves import plot_training
from frcnn.training.folders import METRICS_FILE
from frcnn.training.metric_lines import metric_line

TENSORBOARD_FOLDER = "tensorboard"
CURVES_FILE = "pictures/curves.png"


class Progress:
    """Reports the steps of one run into its folder and to the person who watches.

    On a terminal it is a bar with speed, losses, learning rate and time left; elsewhere every record is one line of
    ``key=value`` pairs. Each record is also a line of ``metrics.jsonl`` and scalars of TensorBoard.

    Args:
        folder: the run's folder; gets ``metrics.jsonl``, ``tensorboard/`` and ``pictures/curves.png``.
        total_steps: steps of the whole run.
        batch_size: images a step, over all processes.
        start_step: steps done before; records of later steps, from a run that was cut off, are dropped from ``metrics.jsonl``.
        log_every: steps between records; the last step always has one.
        stream: where to write; standard output where None.
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
        if _is_screen(self._stream):
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
            step: steps done so far in the run, counted from 1.
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
            metrics: numbers by name, None where there was nothing to measure; nested tables go to the file only.
        """
        if self._metrics.append("evaluation", step, metrics):
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            self._scalars(step, {f"evaluation/{name}": value for name, value in numbers.items()})
            self._say(metric_line("evaluation", {"step": step, **numbers}))
            plot_training(read_records(self._folder / METRICS_FILE), self._folder / CURVES_FILE)
        self._clock = time.perf_counter()  # the evaluation's time is not the steps'

    def pictures(self, step: int, name: str, pictures: Sequence[np.ndarray]) -> None:
        """Show ``[H, W, 3]`` uint8 pictures, of any sizes, in TensorBoard."""
        with self._summaries.as_default():
            for number, picture in enumerate(pictures):
                tf.summary.image(f"{name}/{number}", picture[None], step=step)
        self._summaries.flush()
        self._clock = time.perf_counter()

    def checkpoint(self, step: int) -> None:
        """Say in the log that this step is safe: a job that was moved to another machine goes on from the last one said."""
        if self._bar is None:
            self._say(metric_line("checkpoint", {"step": step}))
        self._clock = time.perf_counter()

    def note(self, text: str) -> None:
        """Tell a person something, without breaking the bar."""
        self._say(text)
        self._clock = time.perf_counter()

    def _record_steps(self, step: int, learning_rate: float) -> None:
        steps = len(self._pending)
        losses = {name: sum(float(losses[name]) for losses in self._pending) / steps for name in self._pending[0]}
        # Reading the losses waited for the device: that time belongs to these steps.
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
            self._say(
                metric_line("train", {"step": step, "steps": self._total_steps, **values, "seconds_left": round(left)})
            )

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._summaries.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._summaries.flush()

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            return
        # One write a line: lines of several processes must not be cut into each other.
        self._stream.write(text + "\n")
        self._stream.flush()


class NullProgress:
    """What the ranks that do not report have in place of :class:`Progress`."""

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

    def pictures(self, step: int, name: str, pictures: Sequence[np.ndarray]) -> None:
        pass

    def checkpoint(self, step: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class MetricsFile:
    """``metrics.jsonl``: one JSON object a record with ``record`` (its kind), ``step`` and the values; grows at its end only.

    Args:
        file: made where it does not exist.
        start_step: records of later steps are dropped, and so is a last line that was cut off.
    """

    def __init__(self, file: Path, start_step: int = 0) -> None:
        kept = [record for record in read_records(file) if record["step"] <= start_step]
        self._recorded = {(record["record"], record["step"]) for record in kept}
        aside = file.with_name(file.name + ".new")
        aside.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(aside, file)
        self._lines = file.open("a")

    def append(self, kind: str, step: int, values: Mapping[str, Any]) -> bool:
        """Write one record at once; False where the file has one of this kind and step already."""
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
    """Records of a ``metrics.jsonl`` in order, without a last line that was cut off; none where there is no file."""
    if not file.exists():
        return []
    records = []
    for line in file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _is_screen(stream: TextIO) -> bool:
    """Whether a bar has a place there. mpirun gives ranks terminals without a width, and passes on what is written into them."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # not one of the system's
        return True


def _null_if_not_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _null_if_not_finite(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
