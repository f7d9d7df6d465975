"""The supervisor of nginx and gunicorn: starts both, shuts both down in order, and exits when either exits."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.gpus import count_gpus
from frcnn.serving.model_source import find_model
from frcnn.serving.options import ServeOptions
from frcnn.serving.wsgi import METRICS, MODEL, OPTIONS, SOCKET, address, terminate_with_parent

GUNICORN_DRAIN = 3.0  # seconds of the drain timeout reserved for gunicorn, which is idle once nginx has drained
NGINX_EXTRA_TIMEOUT = 10.0  # seconds that nginx waits for a worker beyond the worker's own request timeout
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
    with tempfile.TemporaryDirectory(prefix="frcnn-serve-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o711)  # nginx's workers open the socket as another user
        model = find_model(options.model.resolve(), scratch)
        nginx = _find_nginx() if options.nginx else None
        _check_port(options)
        options = _with_machine_defaults(options, count_gpus())
        (scratch / OPTIONS).write_text(options.model_dump_json())
        (scratch / MODEL).write_text(str(model))
        (scratch / METRICS).mkdir()
        with _Signals() as signals:
            return _supervise(_start(options, scratch, nginx, signals), signals, options)


class _Signals:
    """SIGTERM and SIGINT as a flag."""

    received = False

    def __enter__(self) -> _Signals:
        self._previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def _start(options: ServeOptions, scratch: Path, nginx: str | None, signals: _Signals) -> Processes:
    """Start the processes; the outermost comes first in the dict. nginx starts once gunicorn listens."""
    gunicorn = _run([sys.executable, "-m", "frcnn.serving.wsgi", str(scratch)])
    if nginx is None:
        return {"gunicorn": gunicorn}
    while not ((scratch / SOCKET).exists() or signals.received or gunicorn.poll() is not None):
        time.sleep(POLL_INTERVAL)
    file = scratch / "nginx.conf"
    file.write_text(nginx_config(options, scratch))
    return {"nginx": _run([nginx, "-p", str(scratch), "-e", "stderr", "-c", str(file)]), "gunicorn": gunicorn}


def _run(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process in a process group of its own, so that Ctrl-C reaches only the supervisor."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=terminate_with_parent)


def nginx_config(options: ServeOptions, scratch: Path) -> str:
    """The template ``nginx.conf`` with its ``@name@`` placeholders filled in."""
    values = {
        "user": _nginx_user(),
        "scratch": str(scratch),
        "processes": str(min(os.cpu_count() or 1, 4)),
        "drain": f"{options.drain_timeout:g}",
        "body": str(options.max_body_mb),
        "socket": str(scratch / SOCKET),
        "address": address(options),
        "timeout": f"{options.request_timeout + NGINX_EXTRA_TIMEOUT:.0f}",
    }
    template = (Path(__file__).parent / "nginx.conf").read_text()
    return re.sub(rf"@({'|'.join(values)})@", lambda match: values[match[1]], template)


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


def _find_nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise UserError(
            "nginx is not installed; run scripts/install_system_packages.sh serve, or serve without it: --no-nginx"
        )
    return found


def _nginx_user() -> str:
    """The ``user`` directive, which nginx needs when started by root: its default user does not exist everywhere."""
    if os.geteuid() != 0:
        return ""
    for name in ("www-data", "nginx", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return f"user {name} {grp.getgrgid(user.pw_gid).gr_name};"
    return "user root;"


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


def _with_machine_defaults(options: ServeOptions, gpus: int) -> ServeOptions:
    """The options with None replaced by what suits this machine."""
    defaults = {
        "workers": options.workers or gpus or 1,
        "max_batch": options.max_batch or (GPU_BATCH if gpus else 1),
    }
    return options.model_copy(update=defaults)
