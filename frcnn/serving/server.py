"""The supervisor of nginx and gunicorn: starts both, passes the end on in the right order, and ends when one of them does."""

from __future__ import annotations

import contextlib
import dataclasses
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

from frcnn.errors import UserError, print_message
from frcnn.serving.model_source import find_model
from frcnn.serving.options import ServeOptions
from frcnn.serving.wsgi import METRICS, MODEL, OPTIONS, SOCKET, address, end_with_parent

DIED = 1  # exit code where a part died by itself
GUNICORNS_SHARE = 3.0  # seconds of the drain that are left to gunicorn, which has nothing to do once nginx is through
NGINX_PATIENCE = 10.0  # seconds that nginx waits for a worker's answer longer than the worker for its own
POLL = 0.1  # seconds
GPU_BATCH = 8  # default of max_batch


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT, then finish the accepted requests within ``drain_timeout``.

    Returns:
        Exit code: 0 after a signal with all requests finished, 1 where requests had to be cut off or a part died.

    Raises:
        UserError: no model, the port is taken, or nginx is missing.
    """
    with tempfile.TemporaryDirectory(prefix="frcnn-serve-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o711)  # nginx's workers look for the socket as another user
        model = find_model(options.model.resolve(), scratch)
        nginx = _find_nginx() if options.nginx else None
        _check_port(options)
        options = _settled(options, _count_gpus())
        (scratch / OPTIONS).write_text(options.to_json())
        (scratch / MODEL).write_text(str(model))
        (scratch / METRICS).mkdir()
        with _Signals() as signals:
            return _supervise(_start(options, scratch, nginx, signals), signals, options)


class _Signals:
    """SIGTERM and SIGINT as a flag."""

    received = False

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


Parts = dict[str, "subprocess.Popen[bytes]"]


def _start(options: ServeOptions, scratch: Path, nginx: str | None, signals: _Signals) -> Parts:
    """The processes by name, the outermost first; nginx comes once gunicorn listens, which takes a moment."""
    gunicorn = _run([sys.executable, "-m", "frcnn.serving.wsgi", str(scratch)])
    if nginx is None:
        return {"gunicorn": gunicorn}
    while not ((scratch / SOCKET).exists() or signals.received or gunicorn.poll() is not None):
        time.sleep(POLL)
    file = scratch / "nginx.conf"
    file.write_text(nginx_config(options, scratch))
    return {"nginx": _run([nginx, "-p", str(scratch), "-e", "stderr", "-c", str(file)]), "gunicorn": gunicorn}


def _run(command: list[str]) -> subprocess.Popen[bytes]:
    """A process in a group of its own, so that Ctrl-C reaches the supervisor alone."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_parent)


def nginx_config(options: ServeOptions, scratch: Path) -> str:
    """The template of this package, filled in."""
    values = {
        "user": _nginx_user(),
        "scratch": str(scratch),
        "processes": str(min(os.cpu_count() or 1, 4)),
        "drain": f"{options.drain_timeout:g}",
        "body": str(options.max_body_mb),
        "socket": str(scratch / SOCKET),
        "address": address(options),
        "timeout": f"{options.request_timeout + NGINX_PATIENCE:.0f}",
    }
    template = (Path(__file__).parent / "nginx.conf").read_text()
    return re.sub(rf"@({'|'.join(values)})@", lambda word: values[word[1]], template)


def _supervise(parts: Parts, signals: _Signals, options: ServeOptions) -> int:
    try:
        while not signals.received:
            for name, part in parts.items():
                if (code := part.poll()) is not None:
                    print_message(f"{name} ended by itself, {_ending(code)}; stopping")
                    _stop(parts, options)
                    return DIED
            time.sleep(POLL)
        return 0 if _stop(parts, options) else DIED
    finally:
        for part in parts.values():
            _kill(part)


def _stop(parts: Parts, options: ServeOptions) -> bool:
    """End the parts, nginx first: it takes nothing more and waits for what it has taken. True where all ended by themselves."""
    deadline = time.monotonic() + options.drain_timeout
    for name, part in parts.items():
        if part.poll() is not None:
            continue
        part.send_signal(signal.SIGQUIT if name == "nginx" else signal.SIGTERM)  # nginx's graceful end is SIGQUIT
        try:
            part.wait(max(deadline - time.monotonic() - (GUNICORNS_SHARE if name == "nginx" else 0), 0.1))
        except subprocess.TimeoutExpired:
            print_message(f"{name} did not end within the {options.drain_timeout:g} s for it; requests are cut off")
            return False
    return True


def _kill(part: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a part's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(part.pid, signal.SIGKILL)
    part.wait()


def _ending(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _find_nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise UserError(
            "nginx is not installed; run scripts/install_system_packages.sh serve, or serve without it: --no-nginx"
        )
    return found


def _nginx_user() -> str:
    """The directive, where nginx is started by root; its built-in default user does not exist everywhere."""
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
            f"port {options.port} of {options.bind} cannot be used ({error.strerror}); choose another one, or end what uses it"
        ) from error


def _settled(options: ServeOptions, gpus: int) -> ServeOptions:
    """The options with what None leaves to the machine."""
    return dataclasses.replace(
        options, workers=options.workers or gpus or 1, max_batch=options.max_batch or (GPU_BATCH if gpus else 1)
    )


def _count_gpus() -> int:
    """From the devices' files: the supervisor does not wait for TensorFlow."""
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))
