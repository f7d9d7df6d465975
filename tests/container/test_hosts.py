"""When and how a worker host learns that the job is over. A real process named orted stands in for mpirun's daemon."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from frcnn.container import hosts
from frcnn.container.hosts import STOPPED, WorkerHost


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("START_SECONDS", "LOST_SECONDS", "SUCCESS_SECONDS", "SUCCESS_SECONDS_PER_HOST", "PROBE_SECONDS"):
        monkeypatch.setattr(hosts, name, 0.0)


@pytest.fixture
def orted(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "orted")
    with subprocess.Popen([program, "600"]) as process:
        yield process
        process.kill()


def worker(folder: Path, answers: bool = True) -> WorkerHost:
    return WorkerHost("algo-1", "algo-2", 2, lambda: True, lambda host: answers, folder)


def ended(watch: WorkerHost) -> int | None:
    """The result of two calls, so that time has passed between them."""
    return watch.every_second() or watch.every_second()


def test_success_file_is_success(tmp_path: Path, orted: subprocess.Popen[bytes]) -> None:
    (tmp_path / "done.algo-1").touch()  # left by an earlier job in the same container
    watch = worker(tmp_path)
    assert watch.every_second() is None
    orted.kill()
    orted.wait()
    (tmp_path / "done.algo-1").touch()
    assert watch.every_second() == 0
    assert watch.exit_code(0) == 0


def test_missing_success_file_is_a_failure_that_names_the_leader(
    tmp_path: Path, orted: subprocess.Popen[bytes]
) -> None:
    watch = worker(tmp_path)
    assert watch.every_second() is None
    orted.kill()
    orted.wait()
    assert watch.every_second() == 1
    assert watch.failure is not None
    assert watch.failure.text().startswith(
        "training failed on the leader algo-1, or the connection to it was lost (host algo-2)\n"
    )


@pytest.mark.parametrize(
    ("hosts", "answers_until", "expected"),
    [
        (2, 0, 20),  # no waiting for an unreachable leader
        (64, 0, 20),
        (64, 100, 120),
        (64, 1000, 340),  # 20 + 5 per host, with a reachable leader that never reports success
        (2, 1000, 30),
    ],
)
def test_reachable_leader_is_given_time_to_notify_every_host(
    tmp_path: Path,
    orted: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    hosts: int,
    answers_until: int,
    expected: int,
) -> None:
    monkeypatch.undo()  # the real limits, on a clock of this test
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    end = now
    watch = WorkerHost("algo-1", "algo-2", hosts, lambda: True, lambda host: now <= end + answers_until, tmp_path)
    assert watch.every_second() is None
    orted.kill()
    orted.wait()
    while watch.every_second() is None:
        now += 1
    assert now - end == expected


def test_sigterm_is_recorded_while_ranks_run_and_obeyed_otherwise(
    tmp_path: Path, orted: subprocess.Popen[bytes]
) -> None:
    watch = worker(tmp_path)
    watch.on_signal(signal.SIGTERM)
    assert watch.every_second() is None
    assert orted.poll() is None
    orted.kill()
    orted.wait()
    assert watch.every_second() == STOPPED
    idle = worker(tmp_path)
    idle.on_signal(signal.SIGTERM)
    assert idle.every_second() == STOPPED


def test_unreachable_and_lost_leader_are_distinguished(tmp_path: Path) -> None:
    absent = worker(tmp_path, answers=False)
    assert ended(absent) == 1
    assert absent.failure is not None
    assert absent.failure.what == "the leader algo-1 was not reachable within 0 minutes after this host was ready"
    present = True
    watch = WorkerHost("algo-1", "algo-2", 2, lambda: True, lambda host: present, tmp_path)
    watch.every_second()
    present = False
    assert ended(watch) == 1
    assert watch.failure is not None
    assert watch.failure.what == "the connection to the leader algo-1 was lost before training began"


def test_time_to_read_a_pipe_does_not_count(tmp_path: Path) -> None:
    prepared = False
    watch = WorkerHost("algo-1", "algo-2", 2, lambda: prepared, lambda host: False, tmp_path)
    assert [watch.every_second() for _ in range(3)] == [None] * 3
    prepared = True
    assert ended(watch) == 1
    assert watch.failure is not None
    assert "was not reachable" in watch.failure.what


def test_exit_code_0_of_the_toolkit_is_not_trusted(tmp_path: Path) -> None:
    watch = worker(tmp_path)
    assert watch.exit_code(0) == 1
    assert watch.failure is not None
    assert watch.failure.what == "training ended, but the leader algo-1 did not report success"
    assert worker(tmp_path).exit_code(7) == 7
