"""What process 1 does on each host while the runner trains: forward signals, and learn how the other hosts fare.

The leader runs mpirun, the workers host ranks for it. SIGTERM is sent to mpirun as SIGUSR1, which it forwards to every
rank on every host without ending them; on SIGTERM it would kill the ranks within two seconds. A worker only records
SIGTERM, because its SSH daemon must run until the leader is done. The toolkit on a worker never learns how the job
ended and reports success, so the outcome comes from the leader's process 1 (``host_status.py``).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from frcnn.container.failure import Failure
from frcnn.container.host_status import LeaderConnection, Outcome, WorkerReports
from frcnn.container.init import Init
from frcnn.container.processes import Process, descendants
from frcnn.errors import EXIT_FAILURE, print_message

STOPPED = 128 + signal.SIGTERM
START_SECONDS = 15 * 60.0  # for all hosts to become reachable
LOST_SECONDS = 5.0  # without a connection that existed, before its host is given up
GRACE_SECONDS = 10.0  # for mpirun to notice itself that a worker failed, since it knows the rank
OUTCOME_SECONDS = 60.0  # for the leader's outcome after a worker's toolkit has ended
STOP_REPORT_SECONDS = 1.0  # for a stopped worker to reach the leader, which is stopped as well
LOG_SECONDS = 60.0  # between messages about hosts that are not ready


class SingleHost:
    """A job of one process, which gets all signals itself."""

    def __init__(self, init: Init) -> None:
        self.on_signal = init.forward

    def every_second(self) -> int | None:
        return None

    def finish(self, code: int, failure: Failure | None) -> Outcome:
        """The outcome of a job whose process exited with ``code``."""
        return Outcome(code, None if code == STOPPED else failure)


class LeaderHost:
    """The host that runs mpirun or a user's program.

    Args:
        reports: those of the other hosts; None if there are none.
    """

    def __init__(self, init: Init, reports: WorkerReports | None = None) -> None:
        self._init, self._reports = init, reports
        self._ranks_started = False
        self._stopped = False
        self._failure: Failure | None = None
        self._worker_failed_at: float | None = None
        self._started = self._logged = time.monotonic()

    def on_signal(self, number: int) -> None:
        self._stopped = self._stopped or number in (signal.SIGTERM, signal.SIGINT)
        running = descendants(self._init.pid)
        mpirun = _mpirun(running)
        if mpirun:
            os.kill(mpirun[0], signal.SIGUSR1 if number in (signal.SIGTERM, signal.SIGINT) else number)
            return
        if self._ranks_started:
            return  # training has ended and the toolkit is about to exit
        # Without MPI the toolkit runs a program, to which it does not forward signals.
        programs = [process for process in running if process.parent == self._init.pid and process.name != "sshd"]
        for process in programs:
            os.kill(process.pid, number)
        if not programs:
            self._init.forward(number)

    def every_second(self) -> int | None:
        """The exit code once a worker is known to have failed, else None."""
        self._ranks_started = self._ranks_started or bool(_mpirun(descendants(self._init.pid)))
        if self._reports is None or self._stopped:
            return None
        now = time.monotonic()
        for host, status in self._reports.workers.items():
            if status.end and status.end.code:
                self._worker_failed_at = self._worker_failed_at or now
                if self._ranks_started and now - self._worker_failed_at < GRACE_SECONDS:
                    return None
                self._stopped = status.end.code == STOPPED
                what = f"host {host} exited with code {status.end.code}"
                return self._end(status.end.failure or self._lost(host, what), status.end.code)
        return None if self._ranks_started else self._missing_worker(self._reports, now)

    def finish(self, code: int, failure: Failure | None) -> Outcome:
        """The outcome of the job, which all workers are told."""
        if self._stopped:
            # Ranks that are stopped before training begins die of the signal that mpirun forwards.
            outcome = Outcome(STOPPED if code else 0)
        else:
            outcome = Outcome(code, (self._failure or failure) if code else None)
        if self._reports:
            self._reports.announce(outcome)
        return outcome

    def _missing_worker(self, reports: WorkerReports, now: float) -> int | None:
        for host, status in reports.workers.items():
            if status.was_connected and not status.connected and not status.end and now - status.since > LOST_SECONDS:
                return self._end(self._lost(host, f"the connection to host {host} was lost before training began"))
            if not status.was_connected and now - self._started > START_SECONDS:
                what = f"host {host} was not reachable within {START_SECONDS / 60:.0f} minutes"
                return self._end(self._lost(host, what))
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            waiting = [
                f"{host} ({'preparing' if status.connected else 'not connected'})"
                for host, status in reports.workers.items()
                if not status.ready
            ]
            if waiting:
                print_message(f"waiting for hosts: {', '.join(waiting)}")
        return None

    def _end(self, failure: Failure, code: int = EXIT_FAILURE) -> int:
        self._failure = failure
        print_message(f"{failure.what} (host {failure.host}); the job ends on all hosts")
        return code

    @staticmethod
    def _lost(host: str, what: str) -> Failure:
        return Failure(what, f"See the log of {host} for the reason; fix it and restart the job.", host)


def _mpirun(processes: list[Process]) -> list[int]:
    return [process.pid for process in processes if process.name.startswith(("mpirun", "orterun"))]


class WorkerHost:
    """A host on which the leader's mpirun starts ranks, through the SSH daemon and mpirun's daemon ``orted``.

    Args:
        prepared: returns True once this host has prepared the job, for example read its pipe.
    """

    def __init__(self, connection: LeaderConnection, leader: str, host: str, prepared: Callable[[], bool]) -> None:
        self._connection, self._leader, self._host, self._prepared = connection, leader, host, prepared
        self._stopped = False
        self._worked = False
        self._outcome: Outcome | None = None

    def on_signal(self, number: int) -> None:
        self._stopped = self._stopped or number in (signal.SIGTERM, signal.SIGINT)

    def every_second(self) -> int | None:
        """The exit code once the job is known to be over on this host, else None."""
        if self._prepared():
            self._connection.report_ready()
        self._worked = self._worked or any(process.name == "orted" for process in descendants(os.getpid()))
        self._outcome = self._connection.outcome or self._missing_leader()
        if self._outcome is None and self._stopped and not self._worked:
            self._outcome = Outcome(STOPPED)
            self._connection.report_end(self._outcome, STOP_REPORT_SECONDS)
        return self._outcome.code if self._outcome else None

    def finish(self, code: int, failure: Failure | None) -> Outcome:
        """The outcome on this host, after the toolkit exited with ``code``; its 0 is no evidence of success."""
        if self._outcome is None and code:
            self._outcome = self._connection.outcome or Outcome(code, failure)
            self._connection.report_end(self._outcome)
        elif self._outcome is None:
            self._outcome = self._connection.wait(OUTCOME_SECONDS)
        outcome = self._outcome or self._failed(f"the leader {self._leader} did not report how training ended")
        if outcome.code and self._stopped:
            return Outcome(STOPPED)
        return outcome

    def _missing_leader(self) -> Outcome | None:
        seconds = self._connection.seconds_without_leader()
        if self._connection.was_connected and seconds > LOST_SECONDS:
            return self._failed(f"the connection to the leader {self._leader} was lost")
        if not self._connection.was_connected and seconds > START_SECONDS:
            return self._failed(f"the leader {self._leader} was not reachable within {START_SECONDS / 60:.0f} minutes")
        return None

    def _failed(self, what: str) -> Outcome:
        advice = f"See the log of {self._leader} for the reason; fix it and restart the job."
        return Outcome(EXIT_FAILURE, Failure(what, advice, self._host))
