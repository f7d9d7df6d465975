"""Every worker knows the health of all workers."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from frcnn.serving.health import STALE_AFTER, Health


def test_all_workers_must_be_healthy(tmp_path: Path) -> None:
    first, second = Health(tmp_path, 0, 2), Health(tmp_path, 1, 2)
    assert first.unhealthy_reason() == "worker 0 of 2 is starting"
    first.report(None)
    assert first.unhealthy_reason() == "worker 1 of 2 is starting"
    second.report("loading the model")
    assert first.unhealthy_reason() == second.unhealthy_reason() == "worker 1 of 2: loading the model"
    second.report(None)
    assert first.unhealthy_reason() is None
    assert second.unhealthy_reason() is None


def test_a_worker_without_reports_is_unhealthy(tmp_path: Path) -> None:
    first, second = Health(tmp_path, 0, 2), Health(tmp_path, 1, 2)
    first.report(None)
    second.report(None)
    long_ago = time.time() - STALE_AFTER - 5
    os.utime(tmp_path / "health-1.json", (long_ago, long_ago))
    assert first.unhealthy_reason() == "worker 1 of 2 has not reported its health for 15 s"


def test_threads_of_a_worker_do_not_share_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health, replace = Health(tmp_path, 0, 1), os.replace

    def replace_late(source: Path, target: Path) -> None:
        """Another thread reports between the write and the rename."""
        monkeypatch.setattr(os, "replace", replace)
        other = threading.Thread(target=health.report, args=["the other's"])
        other.start()
        other.join()
        assert health.unhealthy_reason() == "worker 0 of 1: the other's"
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_late)
    health.report(None)
    assert health.unhealthy_reason() is None


@pytest.mark.parametrize("content", ["", '{"reason": nu'])
def test_an_incomplete_report_counts_as_missing(tmp_path: Path, content: str) -> None:
    (tmp_path / "health-0.json").write_text(content)
    assert Health(tmp_path, 0, 1).unhealthy_reason() == "worker 0 of 1 is starting"
