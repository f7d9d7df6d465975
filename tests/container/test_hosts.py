"""When a worker host knows that the job is over, and how. A real process plays mpirun's daemon."""

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
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("START_SECONDS", "LOST_SECONDS", "SUCCESS_SECONDS", "TELLING_SECONDS", "KNOCK_SECONDS"):
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
    """Of two looks, so that time has passed between them."""
    return watch.every_second() or watch.every_second()


def test_the_leaders_word_makes_success(tmp_path: Path, orted: subprocess.Popen[bytes]) -> None:
    (tmp_path / "done.algo-1").touch()  # of a job before in the same container
    watch = worker(tmp_path)
    assert watch.every_second() is None
    orted.kill()
    orted.wait()
    (tmp_path / "done.algo-1").touch()
    assert watch.every_second() == 0
    assert watch.exit_code(0) == 0


def test_an_end_without_a_word_is_a_failure_that_names_the_leader(
    tmp_path: Path, orted: subprocess.Popen[bytes]
) -> None:
    watch = worker(tmp_path)
    assert watch.every_second() is None
    orted.kill()
    orted.wait()
    assert watch.every_second() == 1
    assert watch.failure is not None
    assert watch.failure.text().startswith(
        "training ended on the leader algo-1 without success, or the leader went away (host algo-2)\n"
    )


@pytest.mark.parametrize(
    ("hosts", "answers_until", "given_up"),
    [
        (2, 0, 20),  # a leader that is gone is not waited for
        (64, 0, 20),
        (64, 100, 120),
        (64, 1000, 340),  # 20 + 5 for each host, with a leader that answers and never tells
        (2, 1000, 30),
    ],
)
def test_a_leader_that_answers_is_given_time_to_tell_every_host(
    tmp_path: Path,
    orted: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    hosts: int,
    answers_until: int,
    given_up: int,
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
    assert now - end == given_up


def test_sigterm_is_noted_while_there_is_work_and_obeyed_when_there_is_none(
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


def test_a_leader_that_never_comes_or_goes_early_is_told_apart(tmp_path: Path) -> None:
    absent = worker(tmp_path, answers=False)
    assert ended(absent) == 1
    assert absent.failure is not None
    assert absent.failure.what == "the leader algo-1 did not come up within 0 minutes after this host was ready"
    present = True
    watch = WorkerHost("algo-1", "algo-2", 2, lambda: True, lambda host: present, tmp_path)
    watch.every_second()
    present = False
    assert ended(watch) == 1
    assert watch.failure is not None
    assert watch.failure.what == "the leader algo-1 went away before training began"


def test_a_leader_may_take_as_long_as_this_host_to_read_its_pipe(tmp_path: Path) -> None:
    prepared = False
    watch = WorkerHost("algo-1", "algo-2", 2, lambda: prepared, lambda host: False, tmp_path)
    assert [watch.every_second() for _ in range(3)] == [None] * 3
    prepared = True
    assert ended(watch) == 1
    assert watch.failure is not None
    assert "did not come up" in watch.failure.what


def test_a_toolkit_that_ends_content_is_not_believed(tmp_path: Path) -> None:
    watch = worker(tmp_path)
    assert watch.exit_code(0) == 1
    assert watch.failure is not None
    assert watch.failure.what == "training ended without a word of success from the leader algo-1"
    assert worker(tmp_path).exit_code(7) == 7
