"""Whether every worker of an endpoint can detect. Each writes a small file again and again; each can answer for all."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

STALE = 10.0  # seconds without a word after which a worker counts as dead or stuck; they write twice a second


class Health:
    """The state of all workers, seen from worker ``number`` of ``workers``.

    Args:
        folder: the endpoint's scratch folder, shared by its workers.
    """

    def __init__(self, folder: Path, number: int, workers: int) -> None:
        self._folder = folder
        self._number = number
        self._workers = workers

    def report(self, trouble: str | None) -> None:
        """Say why this worker cannot detect, or None where it can."""
        # A name of the thread's own: a worker's threads must not take each other's file away.
        aside = self._folder / f".health-{self._number}-{threading.get_ident()}"
        aside.write_text(json.dumps({"trouble": trouble}))
        os.replace(aside, self._file(self._number))

    def unhealthy_reason(self) -> str | None:
        """Why the endpoint is not healthy; None where all workers can detect."""
        for number in range(self._workers):
            try:
                silence = time.time() - self._file(number).stat().st_mtime
                trouble = json.loads(self._file(number).read_text())["trouble"]
            except (OSError, ValueError):  # not there, or not whole, as a full disk leaves it
                return f"worker {number} of {self._workers} is starting"
            if trouble:
                return f"worker {number} of {self._workers}: {trouble}"
            if silence > STALE:
                return f"worker {number} of {self._workers} has not been heard of for {silence:.0f} s"
        return None

    def _file(self, number: int) -> Path:
        return self._folder / f"health-{number}.json"
