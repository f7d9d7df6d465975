"""When and how hosts learn that the job is over, over real connections; a process is named orted for mpirun's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from frcnn.container import hosts
from frcnn.container.failure import Failure
from frcnn.container.host_status import LeaderConnection, Outcome, WorkerReports
from frcnn.container.hosts import STOPPED, LeaderHost, SingleHost, WorkerHost
from frcnn.container.init import Init

KEY = b"key"
FAILURE = Failure("channel 'train' is empty", "Fill it.", "algo-2")


class FakeInit:
    """A child without processes."""

    pid = 2**30  # larger than any process id

    def __init__(self) -> None:
        self.forwarded: list[int] = []

    def forward(self, number: int) -> None:
        self.forwarded.append(number)


@pytest.fixture
def orted(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "orted")
    with subprocess.Popen([program, "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def reports() -> Iterator[WorkerReports]:
    reports = WorkerReports(["algo-2"], KEY, port=0)
    yield reports
    reports.announce(Outcome(0), seconds=0.0)


def leader(reports: WorkerReports | None = None) -> LeaderHost:
    return LeaderHost(cast("Init", FakeInit()), reports)


def connect(reports: WorkerReports) -> LeaderConnection:
    return LeaderConnection("127.0.0.1", "algo-2", KEY, reports.port)


def worker(connection: LeaderConnection, prepared: bool = True) -> WorkerHost:
    return WorkerHost(connection, "algo-1", "algo-2", lambda: prepared)


def result(every_second: Callable[[], int | None], seconds: float = 20) -> int:
    """The first exit code."""
    deadline = time.monotonic() + seconds
    while (code := every_second()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


def wait_until_connected(reports: WorkerReports) -> None:
    result(lambda: 0 if reports.workers["algo-2"].connected else None)


def test_success_of_the_leader_is_success(reports: WorkerReports, orted: subprocess.Popen[bytes]) -> None:
    host = worker(connect(reports))
    wait_until_connected(reports)
    assert host.every_second() is None
    assert leader(reports).finish(0, None) == Outcome(0)
    assert result(host.every_second) == 0
    assert host.finish(0, None) == Outcome(0)


def test_failure_of_the_leader_is_the_workers_failure(reports: WorkerReports) -> None:
    host = worker(connect(reports))
    wait_until_connected(reports)
    reason = Failure("loss is not finite", "Lower the rate.", "algo-1", 0)
    assert leader(reports).finish(7, reason) == Outcome(7, reason)
    assert result(host.every_second) == 7
    assert host.finish(137, None) == Outcome(7, reason)


def test_failure_of_a_worker_ends_the_leader_with_its_reason(reports: WorkerReports) -> None:
    """Before mpirun starts: the toolkit alone would wait an hour for the worker."""
    first = leader(reports)
    host = worker(connect(reports))
    wait_until_connected(reports)
    assert first.every_second() is None
    assert host.finish(3, FAILURE) == Outcome(3, FAILURE)
    assert result(first.every_second) == 3
    assert first.finish(143, Failure("training was terminated", "", "algo-1")) == Outcome(143, FAILURE)


def test_exit_code_0_of_a_workers_toolkit_is_not_trusted(
    reports: WorkerReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "OUTCOME_SECONDS", 0.1)
    outcome = worker(connect(reports)).finish(0, None)
    assert (outcome.code, outcome.failure and outcome.failure.what) == (
        1,
        "the leader algo-1 did not report how training ended",
    )


@pytest.mark.parametrize("once_connected", [True, False])
def test_unreachable_and_lost_leader_are_distinguished(
    reports: WorkerReports, monkeypatch: pytest.MonkeyPatch, once_connected: bool
) -> None:
    monkeypatch.setattr(hosts, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(hosts, "START_SECONDS", 0.0)
    if once_connected:
        connection = connect(reports)
        wait_until_connected(reports)
        reports._listener.close()
        reports._channels["algo-2"]._connection.shutdown(2)
    else:
        reports._listener.close()
        connection = connect_to_nothing()
    host = worker(connection)
    assert result(host.every_second) == 1
    failure = host.finish(143, None).failure
    assert failure is not None
    assert failure.what == (
        "the connection to the leader algo-1 was lost"
        if once_connected
        else "the leader algo-1 was not reachable within 0 minutes"
    )


def connect_to_nothing() -> LeaderConnection:
    return LeaderConnection("127.0.0.1", "algo-2", KEY, port=1)


@pytest.mark.parametrize("once_connected", [True, False])
def test_lost_and_missing_worker_end_the_leader(
    reports: WorkerReports, monkeypatch: pytest.MonkeyPatch, once_connected: bool
) -> None:
    monkeypatch.setattr(hosts, "LOST_SECONDS", 0.0)
    first = leader(reports)
    assert first.every_second() is None
    if once_connected:
        connect(reports)
        wait_until_connected(reports)
        reports._listener.close()
        reports._channels["algo-2"]._connection.shutdown(2)
    else:
        monkeypatch.setattr(hosts, "START_SECONDS", 0.0)
    assert result(first.every_second) == 1
    failure = first.finish(143, None).failure
    assert failure is not None
    assert (failure.host, failure.what) == (
        "algo-2",
        "the connection to host algo-2 was lost before training began"
        if once_connected
        else "host algo-2 was not reachable within 0 minutes",
    )


def test_leader_names_the_hosts_it_waits_for(
    reports: WorkerReports, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "LOG_SECONDS", 0.0)
    first = leader(reports)
    assert first.every_second() is None
    assert capsys.readouterr().err == "frcnn: waiting for hosts: algo-2 (not connected)\n"
    host = worker(connect(reports), prepared=False)
    wait_until_connected(reports)
    assert host.every_second() is None
    assert first.every_second() is None
    assert capsys.readouterr().err == "frcnn: waiting for hosts: algo-2 (preparing)\n"


def test_sigterm_is_recorded_while_ranks_run_and_obeyed_otherwise(
    reports: WorkerReports, orted: subprocess.Popen[bytes]
) -> None:
    host = worker(connect(reports))
    wait_until_connected(reports)
    host.on_signal(signal.SIGTERM)
    assert host.every_second() is None
    assert orted.poll() is None
    leader(reports).finish(0, None)  # the ranks have saved a checkpoint
    assert result(host.every_second) == 0
    assert host.finish(143, None) == Outcome(0)


def test_worker_stopped_before_training_stops_the_leader(reports: WorkerReports) -> None:
    first, host = leader(reports), worker(connect(reports))
    wait_until_connected(reports)
    host.on_signal(signal.SIGTERM)
    assert host.every_second() == STOPPED
    assert host.finish(143, FAILURE) == Outcome(STOPPED)
    assert result(first.every_second) == STOPPED
    assert first.finish(143, FAILURE) == Outcome(STOPPED)


def test_stopped_job_has_no_failure() -> None:
    init = FakeInit()
    first = LeaderHost(cast("Init", init))
    first.on_signal(signal.SIGTERM)
    assert init.forwarded == [signal.SIGTERM]
    assert first.finish(138, FAILURE) == Outcome(STOPPED)  # ranks die of the SIGUSR1 that mpirun forwards
    single = SingleHost(cast("Init", init))
    assert single.finish(STOPPED, FAILURE) == Outcome(STOPPED)
    assert single.finish(1, FAILURE) == Outcome(1, FAILURE)
    single.on_signal(signal.SIGINT)
    assert init.forwarded[-1] == signal.SIGINT
    assert os.getpid() != init.pid
