"""The box around a COCO ``segmentation``: polygons, or a run-length encoded mask.

A mask is stored as runs of 0 and 1 in column order: ``counts`` is a list of run lengths, or a text that packs them (the
format of pycocotools). Annotation files come from strangers, and pycocotools reads beyond the end of broken texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from frcnn.data.json_values import as_number, as_size

MAX_RUNS = 10_000_000


def segmentation_box(segmentation: Any) -> tuple[float, float, float, float] | None:
    """``(x, y, width, height)`` around a segmentation, in pixels; None where it has no area or cannot be read."""
    if isinstance(segmentation, dict):
        return _mask_box(segmentation)
    return _polygon_box(segmentation) if isinstance(segmentation, list) else None


def _polygon_box(polygons: list[Any]) -> tuple[float, float, float, float] | None:
    if polygons and not any(isinstance(polygon, list) for polygon in polygons):
        polygons = [polygons]  # one polygon without the list around it
    points: list[float] = []
    for polygon in polygons:
        numbers = [as_number(value) for value in polygon] if isinstance(polygon, list) else []
        if len(numbers) % 2 or any(number is None for number in numbers):
            return None
        points += (number for number in numbers if number is not None)
    if len(points) < 6:  # three corners
        return None
    x, y = np.array(points[::2]), np.array(points[1::2])
    return _positive(x.min(), y.min(), x.max() - x.min(), y.max() - y.min())


def _mask_box(mask: dict[str, Any]) -> tuple[float, float, float, float] | None:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = as_size(size[0]), as_size(size[1])
    runs: list[int] = []
    if isinstance(counts, str):
        runs = list(itertools.islice(_unpack(counts), MAX_RUNS))
    elif isinstance(counts, list) and all(isinstance(count, int) for count in counts):
        runs = counts
    if height is None or width is None or any(run < 0 for run in runs) or sum(runs) != height * width:
        return None
    ends = np.cumsum(np.array(runs, np.int64))
    starts, ends = ends[:-1:2], ends[1::2]  # of the runs of 1, which follow those of 0
    starts, ends = starts[ends > starts], ends[ends > starts] - 1
    if not len(starts):
        return None
    left, right = starts[0] // height, ends[-1] // height
    several_columns = starts // height != ends // height
    if several_columns.any():
        # A run that continues in the next column touches the lower edge of one column and the upper edge of the next.
        top, bottom = 0, height - 1
    else:
        top, bottom = (starts % height).min(), (ends % height).max()
    return _positive(left, top, right - left + 1, bottom - top + 1)


def _unpack(text: str) -> Iterator[int]:
    """Run lengths of a packed text: little-endian groups of 5 bits; later runs are differences to two runs before."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift  # the last group carries the sign
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        yield value
        value = shift = 0


def _positive(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float] | None:
    box = (float(x), float(y), float(width), float(height))
    return box if np.isfinite(box).all() and box[2] > 0 and box[3] > 0 else None
