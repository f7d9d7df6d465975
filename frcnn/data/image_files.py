"""Image files on disk: which files count as images, which are ignored, and which file a ``file_name`` leads to."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
)
# Folders and files that operating systems add to copies and archives.
SYSTEM_NAMES = ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


def is_hidden(path: PurePath) -> bool:
    """Whether a relative path is ignored: a part of it starts with a dot (``._x``) or is one of ``SYSTEM_NAMES``."""
    return any((part[0] == "." and part != "..") or part in SYSTEM_NAMES for part in path.parts)


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image, in upper or lower case, and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(PurePath(name))


class ImageListing(NamedTuple):
    """Files below a folder.

    Attributes:
        images: sorted.
        ignored: number of files that are hidden or have another suffix.
    """

    images: list[Path]
    ignored: int


def list_images(folder: Path) -> ImageListing:
    """Image files below a folder, in subfolders and behind symbolic links as well.

    Hidden files and folders are ignored; files in ignored folders are not counted.
    """
    images, ignored = [], 0
    for path in files_below(folder):
        if is_image_name(path.name):
            images.append(path)
        else:
            ignored += 1
    return ImageListing(sorted(images), ignored)


def files_with_suffix(folder: Path, suffix: str) -> list[Path]:
    """Files below a folder with a suffix in upper or lower case, sorted, without hidden ones."""
    found = (path for path in files_below(folder) if path.suffix.lower() == suffix)
    return sorted(path for path in found if not is_hidden(PurePath(path.name)))


class LocatedFiles(NamedTuple):
    """Files that the ``file_name`` entries of an annotation file lead to.

    Attributes:
        paths: one per name; that of a missing file is where it should be.
        missing: names that lead to no file.
        respelled: number of names that differ from their file in letter case, slashes or Unicode normal form.
        unlisted: number of image files that are in the same folders and that no name leads to.
    """

    paths: list[Path]
    missing: list[str]
    respelled: int
    unlisted: int


def locate_files(folder: Path, names: Sequence[str]) -> LocatedFiles:
    """Find the files of relative ``names`` below ``folder``; every folder is listed once and no file is opened.

    A name that does not exist as spelled is looked up with slashes for backslashes, in its Unicode normal form, and
    in another letter case if only one file matches.
    """
    listings: dict[str, FolderNames] = {}

    def listing(subfolder: str) -> FolderNames:
        if subfolder not in listings:
            listings[subfolder] = FolderNames(folder / subfolder)
        return listings[subfolder]

    paths: list[Path] = []
    missing: list[str] = []
    used: dict[str, set[str]] = defaultdict(set)
    respelled = 0
    for name in names:
        subfolder, base = os.path.split(name)
        if base not in listing(subfolder).names:
            found = _search(name, listing)
            if found is None:
                paths.append(folder / name)
                missing.append(name)
                continue
            subfolder, base = found
            respelled += 1
        used[os.path.normpath(subfolder)].add(base)
        paths.append(folder / subfolder / base)
    unlisted = sum(sum(map(is_image_name, listing(subfolder).names - bases)) for subfolder, bases in used.items())
    return LocatedFiles(paths, missing, respelled, unlisted)


def normal_name(name: str) -> str:
    """A ``file_name`` with slashes, without ``.`` parts and doubled slashes, in Unicode normal form C."""
    if name.isascii() and "\\" not in name and "./" not in name and "//" not in name:
        return name
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


class FolderNames:
    """Names in one folder, also found in another normal form or letter case; empty if the folder does not exist."""

    def __init__(self, folder: Path) -> None:
        try:
            self.names = frozenset(os.listdir(folder))
        except (OSError, ValueError):  # a name that the file system cannot represent is a ValueError
            self.names = frozenset()
        self._similar: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        if name in self.names:
            return name
        if self._similar is None:
            self._similar = defaultdict(list)
            for known in self.names:
                self._similar[_fold(known)].append(known)
        similar = self._similar.get(_fold(name), [])
        same = [known for known in similar if _normal(known) == _normal(name)]
        candidates = same or similar
        return candidates[0] if len(candidates) == 1 else None


def _search(name: str, listing: Callable[[str], FolderNames]) -> tuple[str, str] | None:
    """Subfolder and base name of a file that is spelled differently on disk, part by part."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    subfolder = ""
    for part in parts[:-1]:
        found = listing(subfolder).find(part)
        if found is None:
            return None
        subfolder = posixpath.join(subfolder, found)
    base = listing(subfolder).find(parts[-1])
    return None if base is None else (subfolder, base)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _fold(name: str) -> str:
    return _normal(_normal(name).casefold())


def files_below(folder: Path) -> Iterator[Path]:
    """Files below a folder and behind symbolic links, unsorted; hidden folders are skipped, hidden files are not."""
    seen: set[str] = set()  # symbolic links may form a cycle
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(PurePath(name)))
        for name in files:
            path = Path(root, name)
            if path.is_file():  # not a socket, a pipe or a dangling link
                yield path
