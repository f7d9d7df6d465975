"""Reports between process 1 of the leader and of the workers, over real connections of this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from frcnn.container import host_status
from frcnn.container.failure import Failure
from frcnn.container.host_status import LeaderConnection, Outcome, WorkerReports
from frcnn.errors import UserError

KEY = b"key of the job"
FAILED = Outcome(1, Failure("channel 'train' is empty", "Fill it.", "algo-2", None))


@pytest.fixture
def reports() -> Iterator[WorkerReports]:
    reports = WorkerReports(["algo-2", "algo-3"], KEY, port=0)
    yield reports
    reports.announce(Outcome(0), seconds=0.0)


def connect(reports: WorkerReports, host: str = "algo-2", key: bytes = KEY) -> LeaderConnection:
    return LeaderConnection("127.0.0.1", host, key, reports.port)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_worker_reports_that_it_is_ready(reports: WorkerReports) -> None:
    worker, status = connect(reports), reports.workers["algo-2"]
    wait_for(lambda: status.connected)
    assert not status.ready
    worker.report_ready()
    wait_for(lambda: status.ready)
    assert worker.seconds_without_leader() == 0
    assert not reports.workers["algo-3"].was_connected


def test_failure_of_a_worker_reaches_the_leader(reports: WorkerReports) -> None:
    connect(reports).report_end(FAILED, seconds=20)
    assert reports.workers["algo-2"].end == FAILED


def test_failure_is_delivered_to_a_leader_that_starts_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    worker = LeaderConnection("127.0.0.1", "algo-2", KEY, port)
    reporting = threading.Thread(target=worker.report_end, args=(FAILED, 20))
    reporting.start()
    time.sleep(0.5)
    reports = WorkerReports(["algo-2"], KEY, port)
    reporting.join()
    assert reports.workers["algo-2"].end == FAILED
    reports.announce(Outcome(1), seconds=20)


@pytest.mark.parametrize("outcome", [Outcome(0), FAILED, Outcome(143)])
def test_outcome_is_announced_to_all_workers(reports: WorkerReports, outcome: Outcome) -> None:
    workers = [connect(reports, host) for host in reports.workers]
    wait_for(lambda: all(status.connected for status in reports.workers.values()))
    reports.announce(outcome, seconds=20)
    assert [worker.wait(20) for worker in workers] == [outcome, outcome]
    assert not any(status.connected for status in reports.workers.values())


def test_outcome_is_announced_to_a_worker_that_connects_later(reports: WorkerReports) -> None:
    announcing = threading.Thread(target=reports.announce, args=(FAILED, 20))
    announcing.start()
    assert [connect(reports, host).wait(20) for host in reports.workers] == [FAILED, FAILED]
    announcing.join()


def test_lost_leader_is_noticed(reports: WorkerReports) -> None:
    worker = connect(reports)
    wait_for(lambda: reports.workers["algo-2"].connected)
    reports._channels["algo-2"]._connection.shutdown(socket.SHUT_RDWR)  # as the kernel does when a process is killed
    reports._listener.close()
    wait_for(lambda: worker.seconds_without_leader() > 0)
    assert worker.was_connected
    assert worker.outcome is None


def test_interrupted_connection_is_restored(reports: WorkerReports) -> None:
    worker, status = connect(reports), reports.workers["algo-2"]
    worker.report_ready()
    wait_for(lambda: status.ready)
    reports._channels["algo-2"]._connection.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: not status.connected)
    wait_for(lambda: status.connected)
    assert status.ready


def test_stranger_is_not_believed(reports: WorkerReports) -> None:
    connect(reports, key=b"key of another job").report_end(FAILED, seconds=1.0)
    with socket.create_connection(("127.0.0.1", reports.port)) as stranger:
        stranger.sendall(b'nonce\n{"host": "algo-2", "ready": true, "end": null}\n')
        stranger.settimeout(20)
        received = b""
        while chunk := stranger.recv(4096):
            received += chunk
    assert len(received.splitlines()) == 1  # the random number of the greeting, then the connection is closed
    status = reports.workers["algo-2"]
    assert (status.connected, status.was_connected, status.end) == (False, False, None)


def test_host_without_network_is_detected_by_keepalive(reports: WorkerReports) -> None:
    connect(reports)
    wait_for(lambda: reports.workers["algo-2"].connected)
    connection = reports._channels["algo-2"]._connection
    options = [connection.getsockopt(socket.IPPROTO_TCP, option) for option, _ in host_status.KEEPALIVE]
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert options[0] + options[1] * options[2] <= 10


def test_port_in_use_is_reported(reports: WorkerReports) -> None:
    with pytest.raises(UserError, match=rf"port {reports.port}, on which the hosts report .* cannot be opened"):
        WorkerReports(["algo-2"], KEY, reports.port)
