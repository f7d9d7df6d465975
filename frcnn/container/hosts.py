"""What process 1 does on each host of a job that the training toolkit runs: the leader starts mpirun, workers lend it their processors.

SIGTERM goes to mpirun as SIGUSR1, which it hands to every rank on every host without ending them (a SIGTERM it answers by
killing them within two seconds); a worker only takes note of it, for its SSH daemon must stay until the leader is done. A
worker's toolkit never learns how the job ended and calls it a success; the file that the leader leaves on success tells.
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
START_SECONDS = 15 * 60.0  # in which the leader must come up, once this host itself is prepared
LOST_SECONDS = 15.0  # without an answer of a leader that was there
SUCCESS_SECONDS = 20.0  # from the end of mpirun's daemon, or the leader's last answer, to its word of success
TELLING_SECONDS = 5.0  # more for each host, however long the leader answers: it tells one after another, through ssh
KNOCK_SECONDS = 5.0
SSH_PORT = 22
SUCCESS_FILES = Path("/tmp")  # "done." and the leader's name, from sagemaker-training 5.1.4, mpi.py


class LeaderHost:
    """The host that starts mpirun, or the only one."""

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
            return  # training is over, and the toolkit is about to tell the workers
        # Without MPI the toolkit runs a program, to which it would not hand the signal on.
        programs = [process for process in running if process.parent == self._init.pid and process.name != "sshd"]
        for process in programs:
            os.kill(process.pid, number)
        if not programs:
            self._init.forward(number)

    def every_second(self) -> None:
        """Notice mpirun."""
        self._ranks_started = self._ranks_started or bool(_mpirun(descendants(self._init.pid)))


def _mpirun(processes: list[Process]) -> list[int]:
    return [process.pid for process in processes if process.name.startswith(("mpirun", "orterun"))]


class WorkerHost:
    """A host on which the leader's mpirun starts ranks, through an SSH daemon and mpirun's own daemon ``orted``.

    Args:
        hosts: how many the job has.
        prepared: tells whether this host has done what precedes its toolkit's wait for the leader. Each reads its whole pipe then,
            for as long as that takes, and so does the leader before its SSH daemon starts.
        answers: tells whether a host's SSH daemon answers.
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
        self._success.unlink(missing_ok=True)  # of a job before
        self._knocked = time.monotonic()
        self._waiting_since: float | None = None
        self._answered: float | None = None
        self._worked = False
        self._ended: float | None = None

    def on_signal(self, number: int) -> None:
        self.stopped = self.stopped or number in (signal.SIGTERM, signal.SIGINT)

    def every_second(self) -> int | None:
        """The exit code as soon as it is known that the job is over here."""
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
        if now - silent_since < SUCCESS_SECONDS and now - self._ended < SUCCESS_SECONDS + TELLING_SECONDS * self._hosts:
            return None
        return (
            STOPPED
            if self.stopped
            else self._fail(f"training ended on the leader {self._leader} without success, or the leader went away")
        )

    def exit_code(self, code: int) -> int:
        """The exit code where the toolkit ended by itself with ``code``, which says nothing about the job."""
        if code or self._success.exists():
            return code
        return self._fail(f"training ended without a word of success from the leader {self._leader}")

    def _leader_is_missing(self, now: float) -> int | None:
        self._probe_leader(now)
        if self._waiting_since is None and self._prepared():
            self._waiting_since = now
        if self._answered is None and self._waiting_since is not None and now - self._waiting_since > START_SECONDS:
            return self._fail(
                f"the leader {self._leader} did not come up within {START_SECONDS / 60:.0f} minutes after this host was ready"
            )
        if self._answered is not None and now - self._answered > LOST_SECONDS:
            return self._fail(f"the leader {self._leader} went away before training began")
        return None

    def _probe_leader(self, now: float) -> None:
        if now - self._knocked >= KNOCK_SECONDS:
            self._knocked = now
            if self._answers(self._leader):
                self._answered = time.monotonic()

    def _fail(self, what: str) -> int:
        self.failure = Failure(
            what, f"The reason is in the log of {self._leader}; mend it and start the job again.", self._host
        )
        return 1


def ssh_answers(host: str) -> bool:
    try:
        with socket.create_connection((host, SSH_PORT), timeout=0.5):
            return True
    except OSError:
        return False
