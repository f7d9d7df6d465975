"""The supervisor of nginx and gunicorn: starts both, shuts both down in order, and exits when either exits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.gpus import count_gpus
from frcnn.serving.model_source import find_model
from frcnn.serving.nginx import find_nginx, nginx_config, nginx_folder
from frcnn.serving.options import ServeOptions
from frcnn.serving.scratch import SOCKET, Settings, scratch_folder, write_settings
from frcnn.serving.wsgi import terminate_with_parent

GUNICORN_DRAIN = 3.0  # seconds of the drain timeout reserved for gunicorn, which is idle once nginx has drained
POLL_INTERVAL = 0.1  # seconds
GPU_BATCH = 8  # default of max_batch

Processes = dict[str, "subprocess.Popen[bytes]"]


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT, then finish the accepted requests within ``drain_timeout``.

    Returns:
        Exit code: 0 after a signal with all requests finished, 1 if requests were cut off or a process died.

    Raises:
        UserError: no model was found, the port is in use, or nginx is missing.
    """
    with _Signals() as signals, scratch_folder("frcnn-serve-") as scratch, nginx_folder() as shared:
        with contextlib.suppress(_Stopped), signals.as_exception():
            nginx = find_nginx(options.nginx)
            options = _with_machine_defaults(options, bool(nginx), count_gpus())
            _check_port(options)
            model = find_model(options.model.resolve(), scratch)
            write_settings(scratch, Settings(options, model, shared))
        if signals.received:
            return 0
        return _supervise(_start(options, scratch, shared, nginx, signals), signals, options)


class _Stopped(Exception):
    """A signal to stop arrived before any process was started."""


class _Signals:
    """SIGTERM, SIGINT and SIGHUP as a flag, or as an exception."""

    received = False
    _raise = False

    def __enter__(self) -> _Signals:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def as_exception(self) -> Iterator[None]:
        """Raise _Stopped inside this context, for steps that take long; the exception leaves no process behind."""
        if self.received:
            raise _Stopped
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._raise:
            self._raise = False
            raise _Stopped


def _start(options: ServeOptions, scratch: Path, shared: Path, nginx: str | None, signals: _Signals) -> Processes:
    """Start the processes; the outermost comes first in the dict. nginx starts once gunicorn listens."""
    # TensorFlow writes temporary files as well, and its processes do not live to remove them.
    gunicorn = _run([sys.executable, "-m", "frcnn.serving.wsgi", str(scratch)], {"TMPDIR": str(scratch)})
    if nginx is None:
        return {"gunicorn": gunicorn}
    while not ((shared / SOCKET).exists() or signals.received or gunicorn.poll() is not None):
        time.sleep(POLL_INTERVAL)
    file = shared / "nginx.conf"
    file.write_text(nginx_config(options, shared))
    return {"nginx": _run([nginx, "-p", str(shared), "-e", "stderr", "-c", str(file)]), "gunicorn": gunicorn}


def _run(command: list[str], variables: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a process group of its own, so that Ctrl-C reaches only the supervisor."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=terminate_with_parent,
        env={**os.environ, **(variables or {})},
    )


def _supervise(processes: Processes, signals: _Signals, options: ServeOptions) -> int:
    try:
        while not signals.received:
            for name, process in processes.items():
                if (code := process.poll()) is not None:
                    print_message(f"{name} exited unexpectedly {_describe_exit(code)}; stopping")
                    _stop(processes, options)
                    return EXIT_FAILURE
            time.sleep(POLL_INTERVAL)
        return 0 if _stop(processes, options) else EXIT_FAILURE
    finally:
        for process in processes.values():
            _kill(process)


def _stop(processes: Processes, options: ServeOptions) -> bool:
    """Stop nginx first, which drains the accepted requests, then gunicorn. True if both exited in time."""
    deadline = time.monotonic() + options.drain_timeout
    for name, process in processes.items():
        if process.poll() is not None:
            continue
        process.send_signal(signal.SIGQUIT if name == "nginx" else signal.SIGTERM)  # SIGQUIT: nginx's graceful stop
        reserved = GUNICORN_DRAIN if name == "nginx" else 0.0
        try:
            process.wait(max(deadline - time.monotonic() - reserved, 0.1))
        except subprocess.TimeoutExpired:
            print_message(
                f"{name} did not stop within the drain timeout of {options.drain_timeout:g} s; requests in flight are "
                "lost"
            )
            return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _describe_exit(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _check_port(options: ServeOptions) -> None:
    try:
        found = socket.getaddrinfo(options.bind, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, target = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        raise UserError(
            f"port {options.port} of {options.bind} cannot be used ({error.strerror}); choose another port, or stop "
            "the program that uses it"
        ) from error


def _with_machine_defaults(options: ServeOptions, nginx: bool, gpus: int) -> ServeOptions:
    """The options with None replaced by what suits this machine."""
    defaults = {
        "nginx": nginx,
        "workers": options.workers or gpus or 1,
        "max_batch": options.max_batch or (GPU_BATCH if gpus else 1),
    }
    return options.model_copy(update=defaults)
