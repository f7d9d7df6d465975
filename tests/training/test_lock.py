"""The lock of an output folder: other processes are refused, locks of dead ones are replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from frcnn.errors import UserError
from frcnn.training import lock
from frcnn.training.lock import LOCK_FILE, STALE_SECONDS, RunLock

HOLD = (
    "import sys; from pathlib import Path; from frcnn.training.lock import RunLock\n"
    "held = RunLock.acquire(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``tmp_path`` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError) as refused:
        RunLock.acquire(tmp_path)
    assert f"host {socket.gethostname()}, process {other.pid}, started 20" in str(refused.value)
    assert f"folder {tmp_path} is in use by another run" in str(refused.value)
    other.communicate("")
    held = RunLock.acquire(tmp_path)
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_suspended_process_keeps_its_lock(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / LOCK_FILE, (0, 0))
    with pytest.raises(UserError, match="in use"):
        RunLock.acquire(tmp_path)


def test_the_lock_of_a_killed_process_is_replaced_at_once(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    held = RunLock.acquire(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    held.release()


def test_a_reused_process_id_is_not_the_owner(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    content = json.loads((tmp_path / LOCK_FILE).read_text())
    boot, namespace, start = content["process"].split()
    (tmp_path / LOCK_FILE).write_text(json.dumps(content | {"process": f"{boot} {namespace} {int(start) - 1}"}))
    RunLock.acquire(tmp_path).release()


@pytest.mark.parametrize(
    "text",
    [
        '{"host": "elsewhere", "pid": 7, "started": "2026-01-01T00:00:00+00:00", "process": "boot pid:[1] 5"}',
        '{"host": "a mac", "pid": 7, "started": "2026-01-01T00:00:00+00:00", "process": null}',
        "",
        "[[[",
        "[1]",
    ],
)
def test_locks_of_other_hosts_are_stale_when_their_heartbeat_stops(tmp_path: Path, text: str) -> None:
    file = tmp_path / LOCK_FILE
    file.write_text(text)
    with pytest.raises(UserError, match=r"in use by another run \((host .*, process 7, started 2026|owner unknown)"):
        RunLock.acquire(tmp_path)
    old = file.stat().st_mtime - STALE_SECONDS - 5
    os.utime(file, (old, old))
    held = RunLock.acquire(tmp_path)
    assert held.is_ours()
    held.release()


def test_a_heartbeat_touches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    held = RunLock.acquire(tmp_path)
    os.utime(held.file, (0, 0))
    touched = lock.threading.Event()
    for _ in range(500):
        if held.file.stat().st_mtime > 0:
            break
        touched.wait(0.02)
    assert held.file.stat().st_mtime > 0
    held.release()


def test_the_same_process_may_open_its_run_again(tmp_path: Path) -> None:
    held = RunLock.acquire(tmp_path)
    assert RunLock.acquire(tmp_path) is held
    held.release()
    held.release()
    with RunLock.acquire(tmp_path) as again:
        assert again is not held
        assert again.file.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_taken_over_is_noticed_and_a_deleted_one_is_written_again(tmp_path: Path) -> None:
    held = RunLock.acquire(tmp_path)
    held.file.unlink()
    held.check()
    assert held.is_ours()
    held.file.write_text(json.dumps({"host": "beta", "pid": 12, "started": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(UserError, match=re.escape("taken over by another run (host beta, process 12, started 2026-01")):
        held.check()
    held.release()
    assert held.file.exists()  # it is the other's


def test_a_stale_lock_that_another_process_replaced_first_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / LOCK_FILE
    file.write_text('{"host": "new"}')
    lock._remove_stale(file, {"host": "old"})
    assert json.loads(file.read_text()) == {"host": "new"}
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
