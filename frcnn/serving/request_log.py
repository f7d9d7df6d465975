"""The request log: one line of JSON per request on standard output, with the time spent in each stage."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any


class RequestRecord:
    """What is known about a request so far.

    Attributes:
        fields: sizes, counts and names for the log line.
        seconds: time spent per stage: ``read``, ``decode``, ``prepare`` (resize and padding), ``wait``, ``detect``,
            ``answer``; summed over images.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.fields: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside this context to a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def write(self, status: int) -> None:
        """Print the line in a single write, so that lines of several threads and processes do not interleave."""
        seconds = {**self.seconds, "total": self.elapsed()}
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": self.request_id,
            "status": status,
            **self.fields,
            "ms": {name: round(value * 1000, 1) for name, value in seconds.items()},
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
