"""What process 1 of a container must do: forward signals, reap orphans, return its child's exit code, end leftovers.

The kernel gives process 1 no default signal handlers and makes it the parent of every orphan.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from frcnn.container.processes import descendants
from frcnn.errors import print_message

FORWARDED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # exit codes, as shells use them
LEFTOVER_SECONDS = 3.0  # grace period for leftover processes after SIGTERM, and for output still in the pipes
_PR_SET_CHILD_SUBREAPER = 36


class Init:
    """Supervisor of one child at a time. Create it before anything else, so that no signal is lost.

    Attributes:
        pid: id of the running child, 0 if there is none.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._exit_code: int | None = None
        self._received: list[int] = []
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._write_end = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (*FORWARDED_SIGNALS, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        if os.getpid() != 1:  # under another process 1, adopt orphans as well
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        on_signal: Callable[[int], None] | None = None,
        on_line: Callable[[str], None] | None = None,
        every_second: Callable[[], int | None] | None = None,
    ) -> int:
        """Run a command to its end; returns its exit code, or 128 + signal.

        Args:
            on_signal: called for each signal; by default the signal is forwarded to the child.
            on_line: called with every line of the child's output, which is copied to ours.
            every_second: may return an exit code, which ends the child.
        """
        self._exit_code = None
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            try:
                self.pid = self._spawn(command, variables, selector if on_line else None, on_line)
            except OSError as error:
                print_message(f"{command[0]} cannot be run: {error.strerror}")
                return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            code = self._wait(selector, on_signal or self.forward, every_second)
            self._end_leftovers(selector)
        self.pid = 0
        return code

    def forward(self, number: int) -> None:
        """Forward a signal to the child."""
        if self.pid and self._exit_code is None:
            os.kill(self.pid, number)

    def _wait(
        self,
        selector: selectors.BaseSelector,
        on_signal: Callable[[int], None],
        every_second: Callable[[], int | None] | None,
    ) -> int:
        while self._exit_code is None:
            self._turn(selector, 1.0 if every_second else None)
            while self._received:
                number = self._received.pop(0)
                if number != signal.SIGCHLD:
                    on_signal(number)
            code = every_second() if every_second and self._exit_code is None else None
            if code is not None:
                return code
        return self._exit_code

    def _turn(self, selector: selectors.BaseSelector, timeout: float | None) -> None:
        """Wait for an event; copy output, reap children."""
        for key, _ in selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
            elif not key.data.relay():
                selector.unregister(key.fileobj)
                os.close(key.fd)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._exit_code = code if code >= 0 else 128 - code

    def _end_leftovers(self, selector: selectors.BaseSelector) -> None:
        """End the remaining descendants, with SIGTERM and then SIGKILL, and relay their last output."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + LEFTOVER_SECONDS
            for process in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
            while time.monotonic() < deadline and (descendants(os.getpid()) or len(selector.get_map()) > 1):
                self._turn(selector, 0.05)
        for key in list(selector.get_map().values()):
            if key.data is not None:
                key.data.finish()
                os.close(key.fd)

    def _spawn(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        selector: selectors.BaseSelector | None,
        on_line: Callable[[str], None] | None,
    ) -> int:
        """Start the child in its own process group, so that a terminal's Ctrl-C reaches it once."""
        actions: list[tuple[int, ...]] = []
        write_ends = []
        if selector and on_line:
            for target in (1, 2):
                read_end, write_end = os.pipe()
                os.set_blocking(read_end, False)
                selector.register(read_end, selectors.EVENT_READ, _Lines(read_end, target, on_line))
                actions.append((os.POSIX_SPAWN_DUP2, write_end, target))
                write_ends.append(write_end)
        try:
            pid = os.posix_spawnp(
                command[0],
                list(command),
                dict(variables),
                file_actions=actions,
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, *FORWARDED_SIGNALS],
            )
        finally:
            for write_end in write_ends:
                os.close(write_end)
        if os.isatty(0):
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            with contextlib.suppress(OSError):
                os.tcsetpgrp(0, pid)
        return pid

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)


class _Lines:
    """Copies a pipe to our output in whole lines, so that lines of the two streams do not interleave."""

    def __init__(self, source: int, target: int, on_line: Callable[[str], None]) -> None:
        self._source, self._target, self._on_line = source, target, on_line
        self._rest = b""

    def relay(self) -> bool:
        """Copy what can be read; False at the end of the pipe."""
        try:
            data = os.read(self._source, 1 << 16)
        except BlockingIOError:
            return True
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > 1 << 20 or not data:  # flush lines over 1 MiB without waiting for the newline
            whole, newline, self._rest = whole + newline + self._rest, b"", b""
        self._write(whole + newline)
        return bool(data)

    def finish(self) -> None:
        self._write(self._rest)

    def _write(self, data: bytes) -> None:
        for line in data.decode(errors="replace").splitlines():
            self._on_line(line)
        view = memoryview(data)
        with contextlib.suppress(OSError):  # a closed output must not end the job
            while view:
                view = view[os.write(self._target, view) :]
