"""SIGINT and SIGTERM as a request: finish the step, save a checkpoint, exit."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from frcnn.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, print_message

# SIGUSR1: mpirun kills its children soon after a SIGTERM, but forwards SIGUSR1 and lets them finish.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StoppedInStartup(SystemExit):
    """A signal before the first step was finished. Nothing is lost by ending at once, so that the process exits."""


class StopRequest:
    """Context manager in which the first signal sets ``received``; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        ends_startup: until :meth:`work_begins` is called, the first signal raises :class:`StoppedInStartup` wherever
            the program is: importing TensorFlow, reading the data and tracing the first step take up to a minute.
    """

    def __init__(self, ends_startup: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._in_startup = ends_startup
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.received = self.received is None, signal.Signals(number)
        # If the exception is lost, in a destructor for example, `received` still stops the run after its first step.
        if first and self._in_startup:
            print_message(f"{self.received.name} before the first step: stopped; rerun the same command")
            raise StoppedInStartup(self.exit_code)
