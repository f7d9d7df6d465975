"""Files and folders that appear complete or not at all.

They are written under a temporary name beside their target, flushed to disk, and renamed. Permissions follow the umask.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".incomplete-"  # of temporary names; what a killed process leaves behind can be recognised and removed


def write_atomically(file: Path, content: str | bytes) -> None:
    """Replace ``file`` with ``content`` (text as UTF-8), or leave it untouched when writing fails.

    Raises:
        OSError: the folder cannot be written.
    """
    with atomic_file(file) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces ``file``, on an exception it is removed.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = _temporary_name(file)
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, file)
        flush_to_disk(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it replaces ``folder``, on an exception it is removed.

    A folder cannot be replaced in one operation: between two renames the target is missing, and the previous content
    is in a sibling whose name starts with :data:`PREFIX`.

    Raises:
        OSError: the parent folder cannot be written.
    """
    temporary = _temporary_name(folder)
    previous = temporary.with_name(f"{temporary.name}-previous")
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            flush_to_disk(path)
        if folder.exists():
            os.replace(folder, previous)
        os.replace(temporary, folder)
        flush_to_disk(folder.parent)
    except BaseException:
        if previous.exists() and not folder.exists():
            os.replace(previous, folder)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def remove_incomplete(folder: Path) -> None:
    """Remove what killed processes left in ``folder``. The caller makes sure that no other process is writing there."""
    for leftover in folder.glob(f"{PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """fsync a file or folder, so that a rename never survives a power failure that its content does not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{PREFIX}{path.name}-{os.getpid()}")
