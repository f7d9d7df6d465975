"""Progress reports of a run: progress bar or log lines, TensorBoard, and ``metrics.jsonl``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from frcnn.evaluation.curves import plot_training
from frcnn.evaluation.matching import Matches
from frcnn.training.folders import METRICS_FILE, Folders
from frcnn.training.metric_lines import metric_line
from frcnn.training.metrics_file import MetricsFile, read_records
from frcnn.training.optional_output import OptionalOutput
from frcnn.training.tracking.pr_curves import pr_curve_summaries
from frcnn.training.tracking.sink import Sink
from frcnn.training.tracking.tensorboard import TensorBoardSink

TENSORBOARD_FOLDER = "tensorboard"
IMAGES_FOLDER = "images"
REPORT_FOLDER = "report"
CURVES_FILE = f"{IMAGES_FOLDER}/curves.png"


class Progress:
    """Reports the steps of one run to the console and to files in its folder.

    On a terminal it shows a progress bar with throughput, losses, learning rate and remaining time; elsewhere each
    record is one line of ``key=value`` pairs. Each record is also a line of ``metrics.jsonl`` and scalars of
    TensorBoard and of other sinks. A file that cannot be written is a warning and does not end the run.

    Args:
        folder: the run's folder; gets ``metrics.jsonl``, ``tensorboard/``, ``images/`` and ``report/``.
        total_steps: steps of the whole run.
        batch_size: images per step over all processes.
        start_step: steps already taken; records of later steps (a run killed after its last checkpoint repeats them)
            are removed from ``metrics.jsonl``.
        log_every: steps between records; the last step always has one.
        stream: where to write; standard output if None.
        budget: seconds left of the run's time limit, or None without one; shown with each record.
        parameters: options of the run by name, for TensorBoard and the sinks.
        open_sinks: called with a function that prints a message; returns further receivers of the records.
        results: files and folders that sinks get at the end of a finished run.
        finished: whether the run is, asked at the end; it will resume if not.
    """

    def __init__(
        self,
        folder: Path,
        total_steps: int,
        batch_size: int,
        start_step: int = 0,
        log_every: int = 20,
        stream: TextIO | None = None,
        budget: Callable[[], float | None] = lambda: None,
        parameters: Mapping[str, str | float] | None = None,
        open_sinks: Callable[[Callable[[str], None]], Sequence[Sink]] = lambda warn: (),
        results: Sequence[Path] = (),
        finished: Callable[[], bool] = lambda: True,
    ) -> None:
        self._budget = budget
        self._folder = folder
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._start_step = start_step
        self._log_every = log_every
        self._stream = stream or sys.stdout
        self._pending: list[Mapping[str, Any]] = []  # losses since the last record
        self._pending_seconds = 0.0
        self._status = ""
        self._optional = OptionalOutput(self.message)
        self._parameters = parameters or {}
        self._open_sinks = open_sinks
        self._results = results
        self._finished = finished
        self._sinks: list[Sink] = []

    def __enter__(self) -> Progress:
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
        self._metrics: MetricsFile | None = None
        with self._optional.writing(str(self._folder / METRICS_FILE)):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsFile(self._folder / METRICS_FILE, self._start_step, self.message)
        self._tensorboard = TensorBoardSink(self._folder / TENSORBOARD_FOLDER)
        self._sinks = [self._tensorboard, *self._open_sinks(self.message)]
        self._for_sinks(lambda sink: sink.start(self._parameters))
        self._clock = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        succeeded = kind is None and self._finished()
        self._for_sinks(lambda sink: sink.finish(self._results if succeeded else (), succeeded))
        if self._metrics is not None:
            with self._optional.writing(str(self._folder / METRICS_FILE)):
                self._metrics.close()

    def is_due(self, step: int) -> bool:
        """Whether a record is written after this step, with its learning rate."""
        return step % self._log_every == 0 or step == self._total_steps

    def step(self, step: int, losses: Mapping[str, Any], learning_rate: Any) -> None:
        """Count a finished step; every ``log_every`` steps, record the means since the last record.

        Args:
            step: steps taken so far in the run, this one included.
            losses: scalars by name.
            learning_rate: rate of this step; only read when a record is due.
        """
        now = time.perf_counter()
        self._pending_seconds += now - self._clock
        self._clock = now
        self._pending.append(losses)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if self.is_due(step):
            self._record_steps(step, float(learning_rate))

    def status(self, activity: str) -> None:
        """Show in front of the progress bar what the run does between steps; empty: nothing."""
        if self._bar is not None and activity != self._status:
            self._status = activity
            self._bar.set_description(activity)

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation and draw the curves so far.

        Args:
            metrics: numbers by name, None where undefined; nested tables go to the file only.
        """
        if self._append("evaluation", step, metrics):
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            self._scalars(step, {f"evaluation/{name}": value for name, value in numbers.items()})
            self._print(metric_line("evaluation", {"step": step, **numbers}))
            with self._optional.writing(str(self._folder / CURVES_FILE)):
                records, _ = read_records(self._folder / METRICS_FILE)
                plot_training(records, self._folder / CURVES_FILE)
        self._clock = time.perf_counter()  # throughput does not count the time of evaluations

    def images(self, step: int, name: str, draw: Callable[[Path], Sequence[np.ndarray]]) -> None:
        """Draw images into the folder ``images/`` of the run, and show them in TensorBoard.

        Args:
            draw: writes the images into the folder that it is given, and returns them, ``[H, W, 3]`` uint8 of any
                sizes.
        """
        images: Sequence[np.ndarray] = ()
        with self._optional.writing(str(self._folder / IMAGES_FOLDER)):
            images = draw(self._folder / IMAGES_FOLDER)
        self._for_sinks(lambda sink: sink.images(step, name, images))
        self._clock = time.perf_counter()

    def pr_curves(self, step: int, matches: Matches) -> None:
        """Show precision-recall curves of an evaluation in TensorBoard."""
        with self._optional.writing(f"PR curves in {self._tensorboard.name}"):
            self._tensorboard.summaries(step, pr_curve_summaries(matches))
        self._clock = time.perf_counter()

    def report(self, write: Callable[[Path, Sequence[Mapping[str, Any]]], Path]) -> None:
        """Write the report on the run's model into the folder ``report/``.

        Args:
            write: is given the folder and the records so far, and returns the page.
        """
        with self._optional.writing(str(self._folder / REPORT_FOLDER)):
            records, _ = read_records(self._folder / METRICS_FILE)
            self.message(f"report: {write(self._folder / REPORT_FOLDER, records)}")

    def optional(self, file: Path, write: Callable[[], object]) -> None:
        """Write a file that the run can do without."""
        with self._optional.writing(str(file)):
            write()
        self._clock = time.perf_counter()

    def checkpoint(self, step: int) -> None:
        """Log that a checkpoint of this step exists, from which a job moved to another machine resumes."""
        if self._bar is None:
            self._print(metric_line("checkpoint", {"step": step}))
        self._clock = time.perf_counter()

    def keep_history(self, folders: Folders) -> None:
        """Copy the records so far to the checkpoints; see :meth:`Folders.keep_history`."""
        with self._optional.writing(str(folders.checkpoints / METRICS_FILE)):
            folders.keep_history()

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
        self._append("train", step, values)
        self._scalars(step, {f"train/{name}": value for name, value in values.items()})
        budget = self._budget()
        if self._bar is not None:
            shown = {name: f"{value:.3f}" for name, value in losses.items()}
            limit = {} if budget is None else {"limit": f"{tqdm.format_interval(max(round(budget), 0))} left"}
            self._bar.set_postfix({**limit, "images/s": f"{speed:.1f}", **shown, "lr": f"{learning_rate:.2g}"})
        else:
            left = {"seconds_left": round((self._total_steps - step) * seconds / steps)}
            if budget is not None:
                left["limit_seconds_left"] = round(budget)
            self._print(metric_line("train", {"step": step, "steps": self._total_steps, **values, **left}))

    def _append(self, kind: str, step: int, values: Mapping[str, Any]) -> bool:
        """Write a record to the metrics file; returns False if the file has it already."""
        new = True
        if self._metrics is not None:
            with self._optional.writing(str(self._folder / METRICS_FILE)):
                new = self._metrics.append(kind, step, values)
        return new

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._for_sinks(lambda sink: sink.scalars(step, values))

    def _for_sinks(self, act: Callable[[Sink], None]) -> None:
        """Call every sink; one that fails is given up."""
        for sink in list(self._sinks):
            with self._optional.writing(sink.name):
                try:
                    act(sink)
                except Exception:
                    self._sinks.remove(sink)
                    raise

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            return
        # One write per line, so that lines of several processes do not interleave.
        self._stream.write(text + "\n")
        self._stream.flush()


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
