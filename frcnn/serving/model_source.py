"""Finds the model to serve: a model folder, a folder that contains one, or the model.tar.gz that SageMaker makes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from frcnn.errors import UserError
from frcnn.weights.model_files import REQUIRED

ARCHIVE = "model.tar.gz"
_OPENERS: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)


def find_model(source: Path, scratch: Path) -> Path:
    """Model folder at ``source``, which is only read: an archive is unpacked below ``scratch``.

    Raises:
        UserError: no model was found, or the archive cannot be unpacked.
    """
    if source.is_file():
        return _unpack(source, scratch)
    for folder in (source, source / "model"):
        if all((folder / name).is_file() for name in REQUIRED):
            return folder
    if (source / ARCHIVE).is_file():
        return _unpack(source / ARCHIVE, scratch)
    if not source.is_dir():
        raise UserError(
            f"model {source} does not exist; give the folder 'model' that frcnn train wrote, or a {ARCHIVE} of it"
        )
    found = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise UserError(
        f"{source} does not contain a model; expected {', '.join(REQUIRED)}, there or in model/, or a {ARCHIVE}; "
        f"found {found}"
    )


def _open_stream(archive: Path) -> BinaryIO:
    """The uncompressed bytes of an archive."""
    with archive.open("rb") as file:
        head = file.read(6)
    for magic, opener in _OPENERS:
        if head.startswith(magic):
            stream: BinaryIO = opener(archive)
            return stream
    return archive.open("rb")


def _unpack(archive: Path, scratch: Path) -> Path:
    target = scratch / "model"
    try:
        with _open_stream(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                tar.extractall(target, filter="data")  # no absolute paths, no links out of the target, no devices
            # A tar reader stops at the end mark; the checksum of the compressed data comes after it.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); expected an archive of a model folder") from error
    for folder in (target, target / "model"):
        if all((folder / name).is_file() for name in REQUIRED):
            return folder
    raise UserError(
        f"{archive} does not contain a model; expected {', '.join(REQUIRED)} at its top level; create it with "
        f"`tar -C MODEL -czf {ARCHIVE} .`"
    )
