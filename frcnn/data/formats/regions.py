"""Bounding boxes (x, y, width, height) of corners, points, circles and ellipses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from frcnn.data.json_values import as_number

Box = tuple[float, float, float, float]


def corners_to_box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """Box of two opposite corners, in any order."""
    return min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)


def points_to_box(xs: Any, ys: Any) -> Box | None:
    """Smallest box around points; None unless both are lists of at least two numbers, equally long."""
    if not isinstance(xs, Sequence) or not isinstance(ys, Sequence) or len(xs) != len(ys) or len(xs) < 2:
        return None
    numbers = [as_number(value) for value in (*xs, *ys)]
    if any(number is None or math.isnan(number) for number in numbers):
        return None
    known = [number for number in numbers if number is not None]
    left, top = min(known[: len(xs)]), min(known[len(xs) :])
    return left, top, max(known[: len(xs)]) - left, max(known[len(xs) :]) - top


def ellipse_to_box(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Box:
    """Smallest box around an ellipse that is rotated by ``angle`` radians."""
    if not all(map(math.isfinite, (x, y, radius_x, radius_y, angle))):
        return math.nan, math.nan, math.nan, math.nan
    half_width = math.hypot(radius_x * math.cos(angle), radius_y * math.sin(angle))
    half_height = math.hypot(radius_x * math.sin(angle), radius_y * math.cos(angle))
    return x - half_width, y - half_height, 2 * half_width, 2 * half_height
