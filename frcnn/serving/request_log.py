"""One line of JSON a request, on standard output, and the times that stand in it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any


class RequestRecord:
    """What is known of a request so far.

    Attributes:
        fields: sizes, counts and names, as they stand in the line.
        seconds: time spent by stage: ``read``, ``decode``, ``wait``, ``detect``, ``answer``; for many pictures the sum.
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
        """Add the time spent inside to a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def write(self, status: int) -> None:
        """The line, in one write, so that those of several threads and processes do not mix."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": self.request_id,
            "status": status,
            **self.fields,
            "ms": {
                name: round(seconds * 1000, 1) for name, seconds in [*self.seconds.items(), ("total", self.elapsed())]
            },
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
