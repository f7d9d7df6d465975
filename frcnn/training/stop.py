"""SIGINT and SIGTERM as a request: finish the step, save a checkpoint, exit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from frcnn.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, print_message
from frcnn.training.lock import release_locks

# SIGUSR1: mpirun kills its children soon after a SIGTERM, but forwards SIGUSR1 and lets them finish.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STARTUP_SECONDS = 1.5  # that a process takes at most to end after a signal in start-up, wherever its main thread is


class StoppedInStartup(SystemExit):
    """A signal before the first step was finished. Nothing is lost by ending at once, so that the process exits."""


class StopRequest:
    """Context manager in which the first signal sets ``received``; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        ends_startup: until :meth:`work_begins` is called, the first signal raises :class:`StoppedInStartup` wherever
            the program is: importing TensorFlow, reading the data and tracing the first step take up to a minute.
            Python delivers signals between two instructions of the main thread, but optimizing the graph and computing
            the first step are one call of a library. A thread therefore ends the process if the exception does not.
    """

    def __init__(self, ends_startup: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._in_startup = ends_startup
        self._previous: dict[signal.Signals, Any] = {}
        self._wakeup: socket.socket | None = None

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        if self._in_startup:
            # The system's handler writes the signal's number to it, whatever the main thread is doing.
            reader, self._wakeup = socket.socketpair()
            self._wakeup.setblocking(False)
            signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch_startup, args=(reader,), name="start-up", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._wakeup:
            signal.set_wakeup_fd(-1)
            self._wakeup.close()  # ends the thread
            self._wakeup = None
        # The initialization of an extension module turns the exception of the handler into an ImportError.
        if self._in_startup and self.received is not None and error and not isinstance(error, StoppedInStartup):
            raise StoppedInStartup(self.exit_code) from None

    def work_begins(self) -> None:
        """From now on there is something to save: a signal no longer ends the process."""
        self._in_startup = False

    @property
    def exit_code(self) -> int:
        """Exit code of a stopped command: 130 after SIGINT; 143 after SIGTERM, SIGUSR1 or a signal to another rank."""
        return EXIT_INTERRUPTED if self.received == signal.SIGINT else EXIT_TERMINATED

    def describe(self, step: int, total_steps: int) -> str:
        """The message of a run that was stopped after a step."""
        cause = self.received.name if self.received else "signal to another rank"
        return f"{cause}: saved a checkpoint at step {step}/{total_steps}; rerun the same command to resume"

    def _watch_startup(self, reader: socket.socket) -> None:
        """Thread: end the process some time after a signal in start-up."""
        with reader:
            while numbers := reader.recv(1):
                if numbers[0] not in SIGNALS:
                    continue
                time.sleep(STARTUP_SECONDS)
                if not self._in_startup or not self._wakeup:
                    return
                if self.received is None:
                    self.received = signal.Signals(numbers[0])
                    self._report_startup()
                release_locks()
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(self.exit_code)

    def _report_startup(self) -> None:
        assert self.received
        print_message(f"{self.received.name} before the first step: stopped; rerun the same command")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.received = self.received is None, signal.Signals(number)
        # If the exception is lost, in a destructor for example, `received` still stops the run after its first step.
        if first and self._in_startup:
            self._report_startup()
            raise StoppedInStartup(self.exit_code)
