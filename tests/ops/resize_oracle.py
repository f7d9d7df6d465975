"""Slow oracle of the resize onto a canvas: each pixel by its definition in double precision, without rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ResizeCase(NamedTuple):
    """Height and width, or y and x, of each argument of ``ops.resize_to_canvas``."""

    resized: tuple[int, int]
    offset: tuple[int, int]
    canvas: tuple[int, int]
    flips: tuple[bool, bool] = (False, False)
    reverse_channels: bool = False
    extent: tuple[float, float] | None = None


def expected_canvas(pixels: np.ndarray, case: ResizeCase, method: str) -> np.ndarray:
    """``[H, W, 3]`` float64."""
    flipped = pixels.astype(np.float64)[:: -1 if case.flips[0] else 1, :: -1 if case.flips[1] else 1]
    if case.reverse_channels:
        flipped = flipped[..., ::-1]
    extent = case.extent or pixels.shape[:2]
    rows, columns = (
        weights(pixels.shape[axis], extent[axis], case.resized[axis], case.flips[axis], method) for axis in (0, 1)
    )
    resized = np.einsum("yh,xw,hwc->yxc", rows, columns, flipped)
    visible = resized[case.offset[0] :, case.offset[1] :][: case.canvas[0], : case.canvas[1]]
    canvas = np.zeros((*case.canvas, 3))
    canvas[: visible.shape[0], : visible.shape[1]] = visible
    return canvas


def weights(before: int, extent: float, after: int, flip: bool, method: str) -> np.ndarray:
    """``[after, before]``: the share of each pixel of an axis in each resized one.

    ``extent`` is the part that is resized: the first pixels, which are the last ones of a flipped axis.
    """
    found = np.zeros((after, before))
    for i in range(after):
        center = (before - extent if flip else 0.0) + (i + 0.5) * extent / after - 0.5
        if method == "bilinear":  # edges are repeated
            low = int(np.floor(center))
            for pixel, share in ((low, 1 - center + low), (low + 1, center - low)):
                found[i, min(max(pixel, 0), before - 1)] += share
        else:  # a triangle as wide as the pixels that are merged
            radius = max(extent / after, 1.0)
            triangle = np.maximum(0, 1 - np.abs(np.arange(before) - center) / radius)
            found[i] = triangle / triangle.sum()
    return found
