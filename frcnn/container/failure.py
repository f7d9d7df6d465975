"""Why a job failed, in the file that SageMaker shows and on the way from any rank to it.

First line: what and where. Second line: what to do. SageMaker shows the first 1024 characters.

Ranks on other hosts cannot write the leader's file. They print one line with a mark, which mpirun hands to the leader's log,
where the leader's process 1 finds it; mpirun's own sentences about lost ranks and hosts are understood there too.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from frcnn.errors import UserError

LIMIT = 1024
MARK = "frcnn-failure "
_TOOLKITS = ("ExecuteUserScriptError", "Framework Error")  # sagemaker-training 5.1.4, trainer.py and errors.py
_SEE_LOG = "The job's log has the details; started again, training goes on from the last checkpoint."
_MEND = "Change what the sentence names and start the job again; it goes on from the last checkpoint, if there is one."
_MEMORY = "Memory ran out: lower training.batch_size, image.max_size or data.workers, or choose a larger instance type."


@dataclass(frozen=True)
class Failure:
    """What happened, on which host and rank, and what to do."""

    what: str
    advice: str
    host: str
    rank: int | None = None

    def text(self) -> str:
        """Two lines of at most 1024 bytes together; what is too long loses its end, never where it was."""
        where = f" (host {self.host})" if self.rank is None else f" (rank {self.rank}, host {self.host})"
        tail = f"{where}\n{self.advice}\n".encode()[: LIMIT // 2]
        what = " ".join(self.what.split()).encode()
        room = LIMIT - len(tail)
        if len(what) > room:
            what = what[: room - 3] + "…".encode()
        return what.decode(errors="ignore") + tail.decode(errors="ignore")

    def line(self) -> str:
        """One line that :class:`FailureParser` of the leader understands."""
        return MARK + json.dumps(asdict(self))


def failure_of(error: BaseException, host: str, rank: int | None = None) -> Failure:
    if isinstance(error, UserError):
        return Failure(str(error), _MEND, host, rank)
    # TensorFlow is not imported for its name: process 1 has no use for it.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    return Failure(f"{type(error).__name__}: {error}", _MEMORY if out_of_memory else _SEE_LOG, host, rank)


def failure_of_exit(code: int, what: str, host: str, rank: int | None = None) -> Failure:
    """For a process that ended without a word; ``code`` is 128 + signal where one ended it."""
    if code <= 128 or code > 128 + max(signal.Signals):
        return Failure(f"{what} ended with exit code {code}", _SEE_LOG, host, rank)
    name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else f"signal {code - 128}"
    return Failure(f"{what} was ended by {name}", _MEMORY if name == "SIGKILL" else _SEE_LOG, host, rank)


def write_failure(file: Path, failure: Failure) -> bool:
    """Write the file, unless there is one: the first to fail knows the reason. False where nothing was written.

    The toolkit's own file, which holds the command and nothing else in 1024 characters, gives way.
    """
    with contextlib.suppress(OSError):
        if file.is_file() and file.read_text(errors="replace").startswith(_TOOLKITS):
            file.unlink()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(failure.text())
        return True
    return False


def report(file: Path, failure: Failure) -> None:
    """Write the file, and the line for the leader."""
    write_failure(file, failure)
    sys.stderr.write(failure.line() + "\n")  # one write: mpirun must not cut it
    sys.stderr.flush()


class FailureParser:
    """Reads a job's log on its way and remembers what explains a failure."""

    # Open MPI 4.1: orte/tools/orterun and orte/mca/errmgr, help texts.
    _KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on\s+signal (\d+)")
    _LOST = re.compile(r"Remote daemon: \S+ on node (\S+)")
    _RAISED = re.compile(r"^(?:\[\d+,(\d+)\]<std\w+>:)?((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b.*)$")

    def __init__(self) -> None:
        self._told: Failure | None = None
        self._mpirun: Failure | None = None
        self._raised: tuple[str, int | None] | None = None

    def read(self, line: str) -> None:
        if MARK in line:
            with contextlib.suppress(ValueError, TypeError):
                self._told = self._told or Failure(**json.loads(line.partition(MARK)[2]))
        elif match := self._KILLED.search(line):
            rank, host, number = match.groups()
            self._mpirun = self._mpirun or failure_of_exit(128 + int(number), "the process", host, int(rank))
        elif match := self._LOST.search(line):
            advice = "The host or its network went away; started again, training goes on from the last checkpoint."
            self._mpirun = self._mpirun or Failure(f"connection to {match[1]} was lost", advice, match[1])
        elif (match := self._RAISED.match(line)) and _TOOLKITS[0] not in line:
            self._raised = match[2], int(match[1]) if match[1] else None

    def failure(self, code: int, what: str, host: str) -> Failure:
        """The best explanation of an exit: a rank's own word, mpirun's, the last exception in the log, the exit code."""
        if self._told or self._mpirun:
            return self._told or self._mpirun  # type: ignore[return-value]
        if self._raised:
            return Failure(self._raised[0], _SEE_LOG, host, self._raised[1])
        return failure_of_exit(code, what, host)
