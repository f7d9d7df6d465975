"""Targets are complete or unchanged, and their permissions follow the umask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frcnn.atomic import PREFIX, atomic_file, atomic_folder, remove_incomplete, write_atomically


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text("old")
    write_atomically(file, "neu ü")
    assert file.read_bytes() == "neu ü".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "inner").write_bytes(b"")
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"file": 0o640, "folder": 0o750, "folder/inner": 0o640}


def write_half(file: Path) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def fill_half(folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "half").touch()
        raise RuntimeError


def test_a_failure_leaves_the_previous_content(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError):
        write_half(file)
    with pytest.raises(RuntimeError):
        fill_half(folder)
    assert file.read_text() == "old"
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_folder_replaces_the_previous_one_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / name).touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}weights-1").mkdir()
    (tmp_path / f"{PREFIX}weights-1" / "half").touch()
    (tmp_path / f"{PREFIX}file-2").touch()
    (tmp_path / "kept").touch()
    remove_incomplete(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
