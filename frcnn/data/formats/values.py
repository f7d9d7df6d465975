"""Reading of text and JSON files of unknown origin, and of the values in them."""

from __future__ import annotations

import codecs
import json
import reprlib
from pathlib import Path
from typing import Any

from frcnn.data import coco_tables
from frcnn.data.json_values import as_size
from frcnn.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def read_text(file: Path) -> str:
    """Content of a text file: UTF-8, or UTF-16 with a byte order mark, as Windows editors and shells write it.

    Raises:
        UserError: the file cannot be read, or is neither.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give the path of an existing file") from error
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8 (byte {error.start}); save it with this encoding") from error


def split_lines(text: str) -> list[str]:
    """Lines that end with LF, CR LF or CR; ``str.splitlines`` also splits at U+2028 and others, inside strings."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse_json(text: str | bytes, place: str) -> Any:
    """The value of a JSON text.

    Raises:
        UserError: invalid or too deeply nested; begins with ``place``.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{place} is not usable: the JSON is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{place} is not valid JSON: {error}") from error


def read_json(file: Path) -> Any:
    """The value of a JSON file. Raises UserError as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(file), str(file))


def to_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height of an image in pixels; None unless both are positive integers."""
    sides = as_size(width), as_size(height)
    return None if sides[0] is None or sides[1] is None else (sides[0], sides[1])


def clean_name(value: Any) -> str:
    """A class name as training reads it, without control characters and surrounding space; "" if it is not text."""
    return coco_tables.clean_name(value) if isinstance(value, str) else ""


def short(value: Any) -> str:
    """A value for a message: abbreviated, however long and deeply nested it is."""
    return _SHORT.repr(value)
