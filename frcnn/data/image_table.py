"""The table ``images`` of a COCO file: checked, every file once, with the size of every image."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from frcnn.data.decode import UnreadableImage, upright_size
from frcnn.data.image_files import locate_files, normal_name
from frcnn.data.json_values import as_integer, as_size
from frcnn.data.problems import Notes, first_few, shorten
from frcnn.data.threads import thread_pool
from frcnn.errors import UserError

HEADER_THREADS = 16  # reading image headers waits for the disk or the network


class ImageEntry(NamedTuple):
    """One row of the image table."""

    image_id: int
    file_name: str
    width: int
    height: int


class ImageTable(NamedTuple):
    """The images of a file.

    Attributes:
        entries: sorted by id; every file occurs once.
        paths: of the entries' files.
        missing: ``file_name`` of entries whose file does not exist.
        merged: id of a removed entry: id of the kept entry with the same file.
        notes: what was corrected, and image files that are not listed.
    """

    entries: list[ImageEntry]
    paths: list[Path]
    missing: list[str]
    merged: dict[int, int]
    notes: Notes


def read_images(entries: list[Any], file: Path, folder: Path) -> ImageTable:
    """Check the image table, find the files below ``folder``, and merge entries of one file.

    Sizes that the table lacks are read from the image files.

    Raises:
        UserError: an entry without usable id, ``file_name`` or size, or entries that contradict each other.
    """
    by_id: dict[int, dict[str, Any]] = {}
    listed: list[tuple[int, dict[str, Any]]] = []
    for position, entry in enumerate(entries):
        image_id = as_integer(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(entry, dict):
            raise UserError(
                f"{file}: entry {position} of 'images' is {shorten(entry)}; expected an object with 'id' and "
                "'file_name'"
            )
        if image_id is None or image_id < 0:
            raise UserError(
                f"{file}: entry {position} of 'images' has the id {shorten(entry.get('id'))}; expected an integer of "
                "0 or more"
            )
        name = _check_file_name(entry.get("file_name"), image_id, file)
        if image_id in by_id and normal_name(by_id[image_id]["file_name"]) != normal_name(name):
            raise UserError(
                f"{file}: image id {image_id} is used for both {by_id[image_id]['file_name']!r} and {name!r}; give "
                "every image its own id"
            )
        by_id.setdefault(image_id, entry)
        listed.append((image_id, entry))
    if not by_id:
        raise UserError(
            f"{file}: 'images' is empty; expected one entry with 'id', 'file_name', 'width' and 'height' per image"
        )
    ids = sorted(by_id)
    located = locate_files(folder, [by_id[image_id]["file_name"] for image_id in ids])
    kept, merged = _merge(dict(zip(ids, located.paths, strict=True)))
    sizes, read_from_files = _sizes(listed, kept, merged, file)
    repeated = len(listed) - len(by_id)
    notes: Notes = {}
    if merged or repeated:
        examples = first_few(
            f"{by_id[other]['file_name']} (ids {first} and {other})" for other, first in merged.items()
        )
        sentence = "entries of 'images' that name a file again, merged into its first entry"
        notes["merged_images"] = (len(merged) + repeated, f"{sentence}: {examples}" if merged else sentence)
    if read_from_files:
        notes["sizes_from_files"] = (read_from_files, "images whose width and height were read from their files")
    if located.respelled:
        notes["respelled_files"] = (
            located.respelled,
            "file names that differ from the file on disk in letter case, slashes or Unicode normal form",
        )
    if located.unlisted:
        notes["unlisted_files"] = (located.unlisted, f"image files in {folder} that the file does not list; not used")
    table = [ImageEntry(image_id, by_id[image_id]["file_name"], *sizes[image_id]) for image_id in kept]
    return ImageTable(table, list(kept.values()), located.missing, merged, notes)


def _check_file_name(name: Any, image_id: int, file: Path) -> str:
    """The name, unless it cannot be that of a file below the images folder: then UserError."""
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{file}: image {image_id} has the file_name {shorten(name)}; expected a path inside the images folder"
        )
    if name.isascii() and name.isprintable() and ".." not in name and name[0] not in "/\\~" and ":" not in name:
        return name  # a quick test for the usual names
    windows = PureWindowsPath(name)
    if ".." in windows.parts or windows.drive or windows.root or PurePosixPath(name).is_absolute():
        raise UserError(
            f"{file}: file_name {name!r} leads out of the images folder; expected a path below it, which "
            "`frcnn convert coco-json` finds"
        )
    if "\0" in name or any(unicodedata.category(character) == "Cs" for character in name):
        raise UserError(f"{file}: file_name {name!r} holds characters that no file name can have")
    return name


def _merge(paths: dict[int, Path]) -> tuple[dict[int, Path], dict[int, int]]:
    """Paths of the first id of each file, and that id by the other ids of the same file."""
    first: dict[Path | str, int] = {}
    merged: dict[int, int] = {}
    for image_id, path in paths.items():
        key = normal_name(str(path))
        if key in first:
            merged[image_id] = first[key]
        else:
            first[key] = image_id
    return {image_id: path for image_id, path in paths.items() if image_id not in merged}, merged


def _sizes(
    listed: list[tuple[int, dict[str, Any]]], kept: dict[int, Path], merged: dict[int, int], file: Path
) -> tuple[dict[int, tuple[int, int]], int]:
    """Width and height by image id, and how many were read from image files."""
    sizes: dict[int, tuple[int, int]] = {}
    for image_id, entry in listed:
        width, height = as_size(entry.get("width")), as_size(entry.get("height"))
        if width is None or height is None:
            continue
        first = merged.get(image_id, image_id)
        if sizes.setdefault(first, (width, height)) != (width, height):
            raise UserError(
                f"{file}: image {image_id} ({entry['file_name']}) is listed with the sizes {sizes[first][0]} x "
                f"{sizes[first][1]} and {width} x {height}; correct one of them"
            )
    lacking = [image_id for image_id in kept if image_id not in sizes]
    by_id = dict(reversed(listed))  # the first entry of each id

    def size_of(image_id: int) -> tuple[int, int]:
        entry = by_id[image_id]
        try:
            return upright_size(kept[image_id])
        except UnreadableImage as error:
            raise UserError(
                f"{file}: image {image_id} ({entry['file_name']}) has the size {shorten(entry.get('width'))} x "
                f"{shorten(entry.get('height'))}, and its file cannot be used instead: {error}"
            ) from error

    with thread_pool(HEADER_THREADS) as threads:
        sizes.update(zip(lacking, threads.map(size_of, lacking), strict=True))
    return sizes, len(lacking)
