"""Anchor boxes of a canvas. Computed in NumPy while a step is traced, so that they are constants of the graph."""

from __future__ import annotations

import numpy as np

from frcnn import config

FIXED_STRIDES = (4, 8, 16, 32, 64)


def base_anchors(size: float, aspect_ratios: tuple[float, ...], rounded: bool) -> np.ndarray:
    """Anchors ``[R, 4]`` float32 of one level, centered at the origin, with area ``size**2`` and ratio height / width.

    ``rounded`` rounds half to even, as torchvision's anchor generator does.
    """
    heights = np.sqrt(np.asarray(aspect_ratios, np.float32))
    widths = 1.0 / heights
    sides = np.stack([widths, heights], axis=1).astype(np.float32) * np.float32(size)
    boxes = np.concatenate([-sides, sides], axis=1) / np.float32(2)
    return np.round(boxes) if rounded else boxes


def level_anchors(canvas: tuple[int, int], feature: tuple[int, int], level: int, options: config.Anchors) -> np.ndarray:
    """Anchors ``[Hl * Wl * R, 4]`` float32 of pyramid level ``level`` (0 is P2), location-major, then ratio.

    The center of cell 0 is pixel 0, without a half-pixel offset, as in torchvision and Detectron2.
    """
    # torchvision derives the stride from the padded image, so P6 of 800 rows has 61, not 64 (pytorch/vision#1765).
    feature_strides = (canvas[0] // feature[0], canvas[1] // feature[1])
    strides = feature_strides if options.stride == "feature" else (FIXED_STRIDES[level],) * 2
    y, x = np.meshgrid(np.arange(feature[0]) * strides[0], np.arange(feature[1]) * strides[1], indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4).astype(np.float32)
    base = base_anchors(options.sizes[level], options.aspect_ratios, options.rounded)
    return (shifts + base[None]).reshape(-1, 4)
