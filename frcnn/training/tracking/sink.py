"""Where the records of a run go besides its own files: the interface, and how a slow or dead server is kept away."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

CAPACITY = 500  # calls that wait for a server; beyond them records are lost
FINISH_SECONDS = 60.0  # that the end of a run waits for a server
STOP_SECONDS = 5.0  # that a stopped run waits; it may be killed soon after the signal
SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")


class Sink(Protocol):
    """Receives the records of one run, from a single thread. Any exception means that it takes no more of them.

    Attributes:
        name: what it is, for warnings.
    """

    name: str

    def start(self, parameters: Mapping[str, str | float]) -> None:
        """Open the run; ``parameters`` are the options by dotted name."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step by name, such as ``train/loss``."""

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        """Images ``[H, W, 3]`` uint8 of a step."""

    def finish(self, files: Sequence[Path], succeeded: bool) -> None:
        """Take the files and folders that the run wrote, and close the run.

        Args:
            succeeded: whether all steps are done; false after an error, and when the run was stopped and will resume.
        """


class BackgroundSink:
    """A sink that is called on a thread of its own, for servers: no call waits, and none raises.

    A server that refuses or fails is reported once and then left alone; one that is too slow loses records, which is
    reported as well. At the end of the run it gets ``FINISH_SECONDS`` for what is left, at a stop ``STOP_SECONDS``.

    Args:
        sink: must not hang at the end of the process, because its thread is then abandoned.
        warn: called with a message, on the threads that call this object.
    """

    def __init__(self, sink: Sink, warn: Callable[[str], None], finish_seconds: float = FINISH_SECONDS) -> None:
        self.name = sink.name
        self._sink = sink
        self._warn = warn
        self._finish_seconds = finish_seconds
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(CAPACITY)
        self._problem: str | None = None  # what the thread found, until it is reported
        self._reported = False
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracking {sink.name}", daemon=True)
        self._thread.start()

    def start(self, parameters: Mapping[str, str | float]) -> None:
        self._call(lambda: self._sink.start(parameters))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._call(lambda: self._sink.scalars(step, values))

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        self._call(lambda: self._sink.images(step, name, images))

    def finish(self, files: Sequence[Path], succeeded: bool) -> None:
        seconds = self._finish_seconds if succeeded else min(STOP_SECONDS, self._finish_seconds)
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._calls.put(lambda: self._sink.finish(files, succeeded), timeout=seconds)
            self._calls.put(None, timeout=max(deadline - time.monotonic(), 0.0))
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._problem = self._problem or f"no answer within {seconds:g} s at the end of the run"
        self._report()

    def _call(self, call: Callable[[], None]) -> None:
        if not self._failed.is_set():
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                self._problem = self._problem or f"{CAPACITY} records are waiting; further ones are left out"
        self._report()

    def _report(self) -> None:
        if self._problem is not None and not self._reported:
            self._reported = True
            self._warn(f"warning: tracking with {self.name}: {self._problem}; training continues without it")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._failed.is_set():
                continue
            try:
                call()
            # Clients raise their own exceptions, those of their HTTP library, and SystemExit.
            except BaseException as error:
                self._problem = self._problem or without_secrets(error)
                self._failed.set()


def without_secrets(error: BaseException) -> str:
    """The message of an exception on one line, without the values of environment variables that hold secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name in SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    return text[:500]
