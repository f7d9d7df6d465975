"""The failure file, whose first 1024 characters SageMaker shows as ``FailureReason``: who writes it, and with which
reason.

First line: what failed and where. Second line: what to do.

Ranks on other hosts cannot write the leader's file. They print one marked line, which mpirun relays to the leader's
output; process 1 of the leader finds it there. It also recognises mpirun's messages about lost ranks and hosts.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frcnn.errors import UserError

LIMIT = 1024
MARK = "frcnn-failure "
_TOOLKITS = ("ExecuteUserScriptError", "Framework Error")  # sagemaker-training 5.1.4, trainer.py and errors.py
_SEE_LOG = "See the job's log for details; a restarted job resumes from the last checkpoint."
_FIX = "Fix the problem above and restart the job; it resumes from the last checkpoint, if there is one."
_MEMORY = "Out of memory: lower training.batch_size, image.max_size or data.workers, or choose a larger instance type."


@dataclass(frozen=True)
class Failure:
    """What failed, on which host and rank, and what to do about it."""

    what: str
    advice: str
    host: str
    rank: int | None = None

    def text(self) -> str:
        """Two lines of at most 1024 bytes in total; a long reason is cut, host, rank and advice are kept."""
        where = f" (host {self.host})" if self.rank is None else f" (rank {self.rank}, host {self.host})"
        tail = f"{where}\n{self.advice}\n".encode()[: LIMIT // 2]
        # Control characters and lone surrogates, from file names for example, are shown as escapes.
        what = "".join(
            char if char.isprintable() else repr(char)[1:-1] for char in " ".join(self.what.split())
        ).encode()
        available = LIMIT - len(tail)
        if len(what) > available:
            what = what[: available - 3] + "…".encode()
        return what.decode(errors="ignore") + tail.decode(errors="ignore")

    @classmethod
    def from_json(cls, content: Any) -> Failure:
        """The failure that ``dataclasses.asdict`` has made JSON of.

        Raises:
            TypeError: it has other fields, or fields of other types.
        """
        failure = cls(**content)
        texts = (failure.what, failure.advice, failure.host)
        if not all(isinstance(text, str) for text in texts) or not isinstance(failure.rank, int | None):
            raise TypeError(f"not a failure: {content}")
        return failure

    def line(self) -> str:
        """One line that the leader's :class:`FailureParser` reads."""
        return MARK + json.dumps(asdict(self))


def failure_of(error: BaseException, host: str, rank: int | None = None) -> Failure:
    """The failure that an exception stands for."""
    if isinstance(error, UserError):
        return Failure(str(error), _FIX, host, rank)
    # Compared by name, because process 1 must not import TensorFlow.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    return Failure(f"{type(error).__name__}: {error}", _MEMORY if out_of_memory else _SEE_LOG, host, rank)


def failure_of_exit(code: int, what: str, host: str, rank: int | None = None) -> Failure:
    """The failure of a process that gave no reason; ``code`` is its exit code, or 128 + signal."""
    if code <= 128 or code > 128 + max(signal.Signals):
        return Failure(f"{what} exited with code {code}", _SEE_LOG, host, rank)
    name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else f"signal {code - 128}"
    return Failure(f"{what} was terminated by {name}", _MEMORY if name == "SIGKILL" else _SEE_LOG, host, rank)


def write_failure(file: Path, failure: Failure) -> bool:
    """Write the file unless it exists, because the first failure is the cause; returns whether it was written.

    A file of the training toolkit is replaced: its 1024 characters hold the mpirun command and nothing else.
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
    """Write the file, and print the line for the leader."""
    write_failure(file, failure)
    sys.stderr.write(failure.line() + "\n")  # a single write, which mpirun does not split
    sys.stderr.flush()


class FailureParser:
    """Reads a job's output line by line and keeps what explains a failure."""

    # Open MPI 4.1: orte/tools/orterun and orte/mca/errmgr, help texts.
    _KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on\s+signal (\d+)")
    _LOST = re.compile(r"Remote daemon: \S+ on node (\S+)")
    _RAISED = re.compile(
        r"^(?:\[\d+,(\d+)\]<std\w+>:)?"
        r"((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b.*|\S*python\S*: can't open file .*)$"
    )

    def __init__(self) -> None:
        self._reported: Failure | None = None
        self._mpirun: Failure | None = None
        self._raised: tuple[str, int | None] | None = None

    def read(self, line: str) -> None:
        if MARK in line:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                self._reported = self._reported or Failure.from_json(json.loads(line.partition(MARK)[2]))
        elif match := self._KILLED.search(line):
            rank, host, number = match.groups()
            self._mpirun = self._mpirun or failure_of_exit(128 + int(number), "the process", host, int(rank))
        elif match := self._LOST.search(line):
            advice = "The host or its network failed; a restarted job resumes from the last checkpoint."
            self._mpirun = self._mpirun or Failure(f"connection to {match[1]} was lost", advice, match[1])
        elif (match := self._RAISED.match(line)) and _TOOLKITS[0] not in line:
            self._raised = match[2], int(match[1]) if match[1] else None

    def failure(self, code: int, what: str, host: str) -> Failure:
        """The best explanation: a rank's report, mpirun's message, the last exception in the log, or the exit code."""
        if self._reported or self._mpirun:
            return self._reported or self._mpirun  # type: ignore[return-value]
        if self._raised:
            return Failure(self._raised[0], _SEE_LOG, host, self._raised[1])
        return failure_of_exit(code, what, host)
