"""What process 1 does on each host when the training toolkit runs the job: the leader runs mpirun, workers host ranks
for it.

SIGTERM is sent to mpirun as SIGUSR1, which it forwards to every rank on every host without ending them; on SIGTERM it
would kill the ranks within two seconds. A worker only records SIGTERM, because its SSH daemon must run until the leader
is done. The toolkit on a worker never learns how the job ended and reports success; only the file that the leader
writes to each worker on success is evidence of it.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from frcnn.container.failure import Failure
from frcnn.container.init import Init
from frcnn.container.processes import Process, descendants

STOPPED = 128 + signal.SIGTERM
START_SECONDS = 15 * 60.0  # for the leader to become reachable, once this host itself is prepared
LOST_SECONDS = 15.0  # without a response from a leader that was reachable
SUCCESS_SECONDS = 20.0  # from the end of orted, or the leader's last response, to the success file
SUCCESS_SECONDS_PER_HOST = 5.0  # in addition: a reachable leader writes the success files one after another, over SSH
PROBE_SECONDS = 5.0
SSH_PORT = 22
SUCCESS_FILES = Path("/tmp")  # "done.LEADER", from sagemaker-training 5.1.4, mpi.py


class LeaderHost:
    """The host that runs mpirun, or the only one."""

    def __init__(self, init: Init) -> None:
        self._init = init
        self._ranks_started = False
        self.stopped = False
        self.failure: Failure | None = None

    def on_signal(self, number: int) -> None:
        self.stopped = self.stopped or number in (signal.SIGTERM, signal.SIGINT)
        running = descendants(self._init.pid)
        mpirun = _mpirun(running)
        if mpirun:
            os.kill(mpirun[0], signal.SIGUSR1 if number in (signal.SIGTERM, signal.SIGINT) else number)
            return
        if self._ranks_started:
            return  # training has ended and the toolkit is about to notify the workers
        # Without MPI the toolkit runs a program, to which it does not forward signals.
        programs = [process for process in running if process.parent == self._init.pid and process.name != "sshd"]
        for process in programs:
            os.kill(process.pid, number)
        if not programs:
            self._init.forward(number)

    def every_second(self) -> None:
        """Record that mpirun has started."""
        self._ranks_started = self._ranks_started or bool(_mpirun(descendants(self._init.pid)))


def _mpirun(processes: list[Process]) -> list[int]:
    return [process.pid for process in processes if process.name.startswith(("mpirun", "orterun"))]


class WorkerHost:
    """A host on which the leader's mpirun starts ranks, through the SSH daemon and mpirun's daemon ``orted``.

    Args:
        hosts: number of hosts of the job.
        prepared: returns True once this host has prepared the job, which precedes its wait for the leader. Each
            host reads its whole pipe then, however long that takes, and so does the leader before its SSH daemon
            starts.
        answers: returns whether the SSH daemon of a host accepts connections.
    """

    def __init__(
        self,
        leader: str,
        host: str,
        hosts: int,
        prepared: Callable[[], bool],
        answers: Callable[[str], bool] | None = None,
        success_files: Path = SUCCESS_FILES,
    ) -> None:
        self.stopped = False
        self.failure: Failure | None = None
        self._leader, self._host, self._hosts = leader, host, hosts
        self._prepared, self._answers = prepared, answers or ssh_answers
        self._success = success_files / f"done.{leader}"
        self._success.unlink(missing_ok=True)  # left by an earlier job
        self._probed = time.monotonic()
        self._waiting_since: float | None = None
        self._answered: float | None = None
        self._worked = False
        self._ended: float | None = None

    def on_signal(self, number: int) -> None:
        self.stopped = self.stopped or number in (signal.SIGTERM, signal.SIGINT)

    def every_second(self) -> int | None:
        """The exit code once the job is known to be over on this host, else None."""
        now = time.monotonic()
        if any(process.name == "orted" for process in descendants(os.getpid())):
            self._worked, self._ended = True, None
            return None
        if not self._worked:
            return STOPPED if self.stopped else self._leader_is_missing(now)
        self._ended = self._ended or now
        if self._success.exists():
            return 0
        self._probe_leader(now)
        silent_since = max(self._ended, self._answered or 0.0)
        limit = SUCCESS_SECONDS + SUCCESS_SECONDS_PER_HOST * self._hosts
        if now - silent_since < SUCCESS_SECONDS and now - self._ended < limit:
            return None
        if self.stopped:
            return STOPPED
        return self._fail(f"training failed on the leader {self._leader}, or the connection to it was lost")

    def exit_code(self, code: int) -> int:
        """The host's exit code after the toolkit exited with ``code``; its 0 is no evidence that the job succeeded."""
        if code or self._success.exists():
            return code
        return self._fail(f"training ended, but the leader {self._leader} did not report success")

    def _leader_is_missing(self, now: float) -> int | None:
        self._probe_leader(now)
        if self._waiting_since is None and self._prepared():
            self._waiting_since = now
        if self._answered is None and self._waiting_since is not None and now - self._waiting_since > START_SECONDS:
            return self._fail(
                f"the leader {self._leader} was not reachable within {START_SECONDS / 60:.0f} minutes after this host "
                "was ready"
            )
        if self._answered is not None and now - self._answered > LOST_SECONDS:
            return self._fail(f"the connection to the leader {self._leader} was lost before training began")
        return None

    def _probe_leader(self, now: float) -> None:
        if now - self._probed >= PROBE_SECONDS:
            self._probed = now
            if self._answers(self._leader):
                self._answered = time.monotonic()

    def _fail(self, what: str) -> int:
        advice = f"See the log of {self._leader} for the reason; fix it and restart the job."
        self.failure = Failure(what, advice, self._host)
        return 1


def ssh_answers(host: str) -> bool:
    """Whether the SSH port of a host accepts connections."""
    try:
        with socket.create_connection((host, SSH_PORT), timeout=0.5):
            return True
    except OSError:
        return False
