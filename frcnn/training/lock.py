"""Lock of a run's output folder, so that two runs never write into the same one.

The lock is a file with the owner's host, process id and start time. File locks of the operating system are not used: on
network file systems they are often local to a host, or not supported. Instead the owner touches the file every few
seconds (heartbeat), and a lock is stale if its process no longer exists on this machine, or, for an owner elsewhere, if
the heartbeat stopped.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from frcnn.errors import UserError

LOCK_FILE = "run.lock"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # without heartbeat; several beats may be late on a busy machine or file server

# Locks of this process by path: a process may open the folder of its own run again.
_held: dict[Path, RunLock] = {}


class RunLock:
    """A lock that this process holds, see :meth:`acquire`; as a context manager it is released at the end."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        self.file = file
        self._content = content
        self._released = threading.Event()

    @classmethod
    def acquire(cls, folder: Path) -> RunLock:
        """Lock an existing folder until :meth:`release` or the end of the process.

        Raises:
            UserError: another run uses the folder; names its host, process id and start time.
            OSError: the folder cannot be written.
        """
        file = folder.resolve() / LOCK_FILE
        if file in _held and _held[file].is_ours():
            return _held[file]
        lock = cls(file, _describe_this_process())
        atexit.register(lock.release)
        try:
            lock._create_file(folder)
        except BaseException:  # a signal in start-up raises SystemExit anywhere
            lock.release()
            raise
        _held[file] = lock
        threading.Thread(target=lock._beat, name="lock heartbeat", daemon=True).start()
        return lock

    def _create_file(self, folder: Path) -> None:
        """Create the lock file, after removing a stale one."""
        while not _create(self.file, self._content):
            owner, stale = _inspect(self.file)
            if not stale:
                raise UserError(
                    f"folder {folder} is in use by another run ({_name(owner)}); wait for its end, or set option "
                    f"'output' to another folder. If that process is gone, try again in {STALE_SECONDS:g} seconds"
                )
            _remove_stale(self.file, owner)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def is_ours(self) -> bool:
        """Whether the file still has the content that this process wrote."""
        return not self._released.is_set() and _read(self.file) == self._content

    def check(self) -> None:
        """Make sure that the folder still belongs to this run; a deleted lock file is written again.

        Raises:
            UserError: another run took over the folder, because this process had been suspended for long.
        """
        if self.is_ours() or self._released.is_set():
            return
        if _create(self.file, self._content):
            return
        owner, _ = _inspect(self.file)
        raise UserError(
            f"folder {self.file.parent} was taken over by another run ({_name(owner)}) while this process was "
            "suspended; this run ends without writing anything more"
        )

    def release(self) -> None:
        """Remove the lock file, if it is still ours; does nothing the second time."""
        if self.is_ours():
            with contextlib.suppress(OSError):
                self.file.unlink()
        self._released.set()
        _held.pop(self.file, None)
        atexit.unregister(self.release)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            if self.is_ours():
                with contextlib.suppress(OSError):
                    os.utime(self.file)  # the server's clock, on a network file system


def release_locks() -> None:
    """Release all locks of this process, which is about to end."""
    for lock in list(_held.values()):
        lock.release()


def _describe_this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "process": _process_identity(os.getpid()),
        "token": secrets.token_hex(8),
    }


def _process_identity(pid: int) -> str | None:
    """Text that identifies a process despite reboots and reuse of process ids; None if it does not exist.

    It starts with boot and process namespace: two containers of one machine may have equal host names and process ids.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        # Field 22 of proc_pid_stat(5), the start time; field 2, the name, may contain blanks and parentheses.
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return f"{boot} {namespace} {start}"


def _create(file: Path, content: dict[str, Any]) -> bool:
    """Write the lock file if it does not exist; creating exclusively is atomic on network file systems as well."""
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(content, stream)
    except BaseException:  # the disk is full, or a signal
        file.unlink(missing_ok=True)
        raise
    return True


def _read(file: Path) -> dict[str, Any] | None:
    """Content of a lock file; None if it is missing or unreadable, as between its creation and its first write."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _inspect(file: Path) -> tuple[dict[str, Any] | None, bool]:
    """Content of an existing lock file, and whether it is stale."""
    owner = _read(file)
    identity = owner.get("process") if owner else None
    here = _process_identity(os.getpid())
    if owner and isinstance(identity, str) and here and identity.split()[:2] == here.split()[:2]:
        pid = owner.get("pid")
        return owner, not isinstance(pid, int) or _process_identity(pid) != identity
    return owner, _seconds_since_heartbeat(file) > STALE_SECONDS


def _seconds_since_heartbeat(file: Path) -> float:
    """Age of the lock file by the clock of its file system, which may differ from this machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".incomplete-clock-") as probe:
            os.utime(probe.name)
            return os.stat(probe.name).st_mtime - file.stat().st_mtime
    except FileNotFoundError:  # released in this moment
        return float("inf")


def _remove_stale(file: Path, owner: dict[str, Any] | None) -> None:
    """Remove a stale lock, but not the one of another process that removed it first and locked the folder."""
    aside = file.with_name(f".incomplete-{LOCK_FILE}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(file, aside)
        if _read(aside) != owner:
            with contextlib.suppress(OSError):
                os.link(aside, file)
        aside.unlink()
    time.sleep(0.05)


def _name(owner: dict[str, Any] | None) -> str:
    if not owner:
        return "owner unknown"
    return f"host {owner.get('host')}, process {owner.get('pid')}, started {owner.get('started')}"
