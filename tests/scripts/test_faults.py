"""Tools that inject faults: each kind of damage really changes the file, and what a stop leaves is found."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256))


@pytest.fixture
def damage_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    from faults import damage_path

    yield damage_path
    sys.modules.pop("faults")


def test_every_kind_of_damage_changes_the_file(damage_path, tmp_path: Path) -> None:
    kinds = set()
    for seed in range(60):
        file = tmp_path / f"{seed}.bin"
        file.write_bytes(CONTENT)
        kind, name = damage_path(file, random.Random(seed)).split()
        kinds.add(kind)
        assert name == file.name
        content = file.read_bytes() if file.is_file() else None
        expected = {
            "bit": content is not None and len(content) == 256 and _changed_bits(content) == 1,
            "cut": content is not None and content == CONTENT[: len(content)] and len(content) < 256,
            "empty": content == b"",
            "delete": not file.exists() and not file.is_symlink(),
            "folder": file.is_dir(),
            "link": file.is_symlink() and not file.exists(),
            "garbage": content is not None and len(content) == 2000,
        }
        assert expected[kind], kind
    assert len(kinds) == 7


def _changed_bits(content: bytes) -> int:
    return sum((before ^ after).bit_count() for before, after in zip(CONTENT, content, strict=True))


def test_what_a_stop_leaves_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    from stop_times import StopTimes, remaining

    for name in ("stop_times", "faults"):
        sys.modules.pop(name)
    command = [sys.executable, "-c", "print(flush=True); input()", f"output={tmp_path}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert remaining(tmp_path) == [process.pid]
        process.communicate(b"\n")
    assert remaining(tmp_path) == []
    times = StopTimes(tmp_path, limit=5)
    times.seconds[2, "saving"] += [0.5, 3.0, 1.0]
    times.codes[2, "saving"].update([143, 0, 143])
    assert list(times.table())[1] == "| 2 | saving | 3 | 1.0 | 3.0 | 0, 143 |"
