"""The image files of a dataset, found by the names and addresses that annotation tools write."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from frcnn.data.decode import UnreadableImage, upright_size
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import to_size
from frcnn.data.image_files import files_below, is_image_name
from frcnn.errors import UserError


def images_folder(given: Path | None, *candidates: Path) -> Path | None:
    """The folder of the images: as given, or the first candidate that has an image. None if no candidate has one.

    Raises:
        UserError: the given folder does not exist.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(f"option --images is {given}, which is not a folder; give the folder with the images")
        return given
    return next(
        (
            folder
            for folder in candidates
            if folder.is_dir() and any(is_image_name(path.name) for path in files_below(folder))
        ),
        None,
    )


def read_size(file: Path, report: Report) -> tuple[int, int] | None:
    """Upright width and height from the file's header; None, with a line in the report, if it cannot be read."""
    try:
        return upright_size(file)
    except UnreadableImage as error:
        report.skip("images that cannot be read", str(error))
        return None


def annotated_size(width: Any, height: Any, file: Path, place: str, report: Report) -> tuple[int, int] | None:
    """Width and height as annotated; where they are missing, zero or no integers, from the image file's header."""
    size = to_size(width, height)
    if size is None and (size := read_size(file, report)):
        report.repair("missing or zero image sizes, read from the image", place)
    return size


class ImageFinder:
    """Finds files below a folder by a path, URL or S3 address that was valid on another machine.

    A file matches if its path below the folder is the end of the address; otherwise if its name is that of the address
    and no other file has it. Backslashes, percent encoding and Unicode normal forms are normalized; case is only used
    to choose between files.

    Args:
        folder: the images folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_path: dict[str, str] = {}
        self._by_folded_path: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for path in sorted(files_below(folder)):
            name = path.relative_to(folder).as_posix()
            key = _key(name)
            self._by_path[key] = name
            self._by_folded_path.setdefault(key.casefold(), []).append(name)
            self._by_name.setdefault(PurePosixPath(key).name.casefold(), []).append(name)
            if is_image_name(path.name):
                self._by_stem.setdefault(PurePosixPath(key).stem.casefold(), []).append(name)

    def find(self, address: str) -> str | None:
        """Path of the file below the folder, with slashes; None if there is no match, or no single one."""
        for text in dict.fromkeys((address, unquote(address))):
            parts = address_parts(text)
            ends = ["/".join(parts[start:]) for start in range(len(parts))]
            for end in ends:
                if end in self._by_path:
                    return self._by_path[end]
            candidates = [self._by_folded_path.get(end.casefold(), []) for end in ends]
            candidates += [self._by_name.get(ends[-1].casefold(), [])] if ends else []
            for same in candidates:
                if len(same) == 1:
                    return same[0]
        return None

    def images(self) -> set[str]:
        """Paths of all images below the folder."""
        return {name for same in self._by_stem.values() for name in same}

    def find_stem(self, stem: str) -> str | None:
        """The image whose name without suffix is ``stem``; None if there is none, or more than one."""
        same = self._by_stem.get(_key(stem).casefold(), [])
        return same[0] if len(same) == 1 else None


def address_parts(address: str) -> list[str]:
    """Names of a path, URL or S3 address, without scheme, drive, query and relative steps."""
    _, separator, rest = address.partition("?d=")  # Label Studio's local files
    path = _key(rest if separator else address).replace("\\", "/")
    scheme, separator, rest = path.partition("://")
    if separator:
        path = rest.partition("?")[0] if scheme.startswith("http") else rest
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return parts[1:] if parts and len(parts[0]) == 2 and parts[0][1] == ":" else parts


def safe_name(address: str) -> str:
    """A file name below some images folder, where the images cannot be looked for; "" if the address has none."""
    if "://" in address or ":" in address or address.startswith(("/", "\\", "~")) or ".." in address:
        return "/".join(address_parts(address)[-1:])
    return "/".join(address_parts(address))


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text)
