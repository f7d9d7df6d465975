"""Health of all workers of an endpoint: each writes a small file twice a second, and any of them can answer for all."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

STALE_AFTER = 10.0  # seconds without a report after which a worker counts as dead or stuck


class Health:
    """The state of all workers, as seen by worker ``number`` of ``workers``.

    Args:
        folder: scratch folder that the workers of the endpoint share.
    """

    def __init__(self, folder: Path, number: int, workers: int) -> None:
        self._folder = folder
        self._number = number
        self._workers = workers

    def report(self, reason: str | None) -> None:
        """Record why this worker cannot detect, or None if it can."""
        # One temporary name per thread: two threads of a worker may report at the same time.
        temporary = self._folder / f".health-{self._number}-{threading.get_ident()}"
        temporary.write_text(json.dumps({"reason": reason}))
        os.replace(temporary, self._file(self._number))

    def unhealthy_reason(self) -> str | None:
        """Why the endpoint is not healthy; None if every worker can detect."""
        for number in range(self._workers):
            try:
                age = time.time() - self._file(number).stat().st_mtime
                reason = json.loads(self._file(number).read_text())["reason"]
            except (OSError, ValueError):  # missing, or cut short by a full disk
                return f"worker {number} of {self._workers} is starting"
            if reason:
                return f"worker {number} of {self._workers}: {reason}"
            if age > STALE_AFTER:
                return f"worker {number} of {self._workers} has not reported its health for {age:.0f} s"
        return None

    def _file(self, number: int) -> Path:
        return self._folder / f"health-{number}.json"
