"""The JSON of a COCO ``instances`` file and its table ``categories``; a broken one is a UserError."""

from __future__ import annotations

import gc
import json
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.data.json_values import as_integer
from frcnn.data.problems import Notes, first_few, quoted, shorten
from frcnn.errors import UserError

TABLES = ("images", "annotations", "categories")
OTHER_FORMATS = "`frcnn convert --help` lists the formats that can be converted"
ZERO_WIDTH = "\ufeff\u200b"  # byte order mark and zero width space


class CategoryTable(NamedTuple):
    """The categories of a file.

    Attributes:
        ids: ascending.
        names: unique; label k in 1..K is ``names[k - 1]``.
        notes: what was corrected.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    notes: Notes


def read_tables(file: Path) -> dict[str, list[Any]]:
    """The three lists of a COCO instances file; polygons are dropped while parsing where there is a box as well.

    Raises:
        UserError: the file cannot be read, is not JSON (line, column), or lacks one of the lists.
    """

    def without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
        if entry.get("bbox"):
            entry.pop("segmentation", None)
        return entry

    collecting = gc.isenabled()
    gc.disable()  # millions of small objects without cycles, which the collector would visit repeatedly
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"), object_hook=without_polygons)
    except OSError as error:
        raise UserError(f"annotation file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"annotation file {file} is not UTF-8 text (byte {error.start}); expected COCO instances JSON; "
            f"{OTHER_FORMATS}"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"annotation file {file} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}; "
            f"{OTHER_FORMATS}"
        ) from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise UserError(f"annotation file {file} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"annotation file {file} is nested too deeply to be COCO instances JSON") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(tree, dict):
        raise UserError(
            f"annotation file {file} holds a {type(tree).__name__}; expected an object with 'images', 'annotations' "
            f"and 'categories'; {OTHER_FORMATS}"
        )
    for key in TABLES:
        if not isinstance(tree.get(key), list):
            raise UserError(
                f"annotation file {file} has no list {key!r}; expected COCO instances JSON with 'images', "
                f"'annotations' and 'categories'; {OTHER_FORMATS}"
            )
    return tree


def read_categories(entries: list[Any], used: Collection[int], file: Path) -> CategoryTable:
    """Check the categories.

    Args:
        entries: the list ``categories``.
        used: category ids that annotations have.
        file: for messages.

    A category without annotations whose name is another one's ``supercategory`` is a group and not a class. Roboflow
    writes one with the id 0, in some splits and not in others.

    Raises:
        UserError: an entry without id or name, an id twice, or no entry.
    """
    names: dict[int, str] = {}
    parents: dict[int, Any] = {}
    cleaned: list[str] = []
    for position, entry in enumerate(entries):
        category_id, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        category_id = as_integer(category_id)
        clean = clean_name(name) if isinstance(name, str) else ""
        if category_id is None or not clean:
            raise UserError(
                f"{file}: entry {position} of 'categories' is {shorten(entry)}; expected an integer 'id' and a text "
                "'name'"
            )
        if names.get(category_id, clean) != clean:
            raise UserError(
                f"{file}: category id {category_id} is used for both {names[category_id]!r} and {clean!r}; give every "
                "category its own id"
            )
        if clean != name:
            cleaned.append(f"{name!r} to {clean!r}")
        names[category_id], parents[category_id] = clean, entry.get("supercategory")
    groups = [
        category_id
        for category_id, name in names.items()
        if category_id not in used and any(parent == name for other, parent in parents.items() if other != category_id)
    ]
    ids = tuple(sorted(set(names) - set(groups)))
    if not ids:
        raise UserError(f"{file}: 'categories' is empty; expected one entry with 'id' and 'name' per class")
    notes: Notes = {}
    if groups:
        listed = quoted(names[category_id] for category_id in groups)
        notes["group_categories"] = (len(groups), f"not classes but groups of other categories: {listed}")
    if cleaned:
        notes["cleaned_names"] = (
            len(cleaned),
            f"class names without spaces or control characters: {first_few(cleaned)}",
        )
    return CategoryTable(ids, _unique([names[category_id] for category_id in ids]), notes)


def clean_name(name: str) -> str:
    """A name in Unicode normal form C, without control characters and without spaces at its ends."""
    kept = (" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in name)
    kept = (character for character in kept if character not in ZERO_WIDTH and unicodedata.category(character) != "Cs")
    return unicodedata.normalize("NFC", "".join(kept)).strip()


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Names of which repeated ones are numbered."""
    unique: list[str] = []
    taken: set[str] = set()
    for original in names:
        name, count = original, 1
        while name in taken:
            count += 1
            name = f"{original} ({count})"
        taken.add(name)
        unique.append(name)
    return tuple(unique)
