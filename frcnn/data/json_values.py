"""Numbers of annotation files as exporters write them: ``3``, ``3.0``, ``"3"``."""

from __future__ import annotations

import math
import re
from typing import Any

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def as_integer(value: Any) -> int | None:
    """The 64-bit integer that a number, a boolean or a text stands for; None for other values."""
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        value = int(value.strip().partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return int(value) if isinstance(value, int) and -(2**63) <= value < 2**63 else None


def as_number(value: Any) -> float | None:
    """The number that a number, a boolean or a text stands for, not always finite; None for other values."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return None


def as_size(value: Any) -> int | None:
    """A side of an image in pixels: an integer of at least 1; None for other values."""
    side = as_integer(value)
    return side if side is not None and 0 < side < 2**31 else None
