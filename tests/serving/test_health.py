"""Every worker can answer for all of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from frcnn.serving.health import STALE, Health


def test_all_workers_must_be_well(tmp_path: Path) -> None:
    first, second = Health(tmp_path, 0, 2), Health(tmp_path, 1, 2)
    assert first.trouble() == "worker 0 of 2 is starting"
    first.report(None)
    assert first.trouble() == "worker 1 of 2 is starting"
    second.report("loading the model")
    assert first.trouble() == second.trouble() == "worker 1 of 2: loading the model"
    second.report(None)
    assert first.trouble() is None
    assert second.trouble() is None


def test_a_silent_worker_is_not_well(tmp_path: Path) -> None:
    first, second = Health(tmp_path, 0, 2), Health(tmp_path, 1, 2)
    first.report(None)
    second.report(None)
    long_ago = time.time() - STALE - 5
    os.utime(tmp_path / "health-1.json", (long_ago, long_ago))
    assert first.trouble() == "worker 1 of 2 has not been heard of for 15 s"
