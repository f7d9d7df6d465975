"""Annotations that cannot be used, and the text forms that messages about data share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

# Corrections of a file: how many, and what was done, by a short name.
Notes = dict[str, tuple[int, str]]

NAMED_IN_ERRORS = 5  # a message names this many items and gives the number of the others


class Problem(NamedTuple):
    """One annotation or image that cannot be used.

    Attributes:
        kind: of an annotation ``malformed``, ``no_box``, ``not_finite``, ``no_area``, ``outside_image``,
            ``unknown_image``, ``unknown_category`` or ``repeated``; of an image ``missing``, ``unreadable`` or
            ``size_differs``.
        annotation_id: as in the file; None where it has no usable one.
        image_id: as in the file; None where it has no usable one.
        reason: sentence with the value found.
    """

    kind: str
    annotation_id: int | None
    image_id: int | None
    reason: str


def first_few(items: Iterable[str], limit: int = NAMED_IN_ERRORS) -> str:
    """The first items of many, and how many more there are."""
    listed = list(items)
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")


def quoted(names: Iterable[str]) -> str:
    """The first names of many in quotes, which show spaces and control characters."""
    return first_few(repr(name) for name in names)


def shorten(value: Any) -> str:
    """A JSON value as text of at most 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
