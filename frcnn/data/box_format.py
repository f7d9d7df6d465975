"""The three ways in which annotation files give boxes, and the detection of a wrong one."""

from __future__ import annotations

from typing import Literal

import numpy as np

from frcnn.errors import UserError

BoxFormat = Literal["xywh", "xyxy", "normalized_xywh"]

TOLERANCE = 1.0  # pixels; rounding moves boxes by as much
MOST = 0.5  # share of the boxes that decides
ALMOST_ALL, SOME = 0.95, 0.2
OPTION = "data.box_format={0} (evaluate and check-dataset: --box-format {0})"


def to_xywh(
    bbox: np.ndarray, sizes: np.ndarray, examined: np.ndarray, box_format: BoxFormat | None, source: str
) -> np.ndarray:
    """Boxes ``[M, 4]`` as ``(x, y, width, height)`` in pixels.

    Args:
        bbox: ``[M, 4]`` as in the file.
        sizes: ``[M, 2]`` width and height of each box's image.
        examined: ``[M]`` bool, boxes that count for the detection of a wrong format.
        box_format: of the file; None is ``xywh``, but a file that looks like another format is refused.
        source: the file, for messages.

    Raises:
        UserError: the boxes contradict the format; names the option that corrects it.
    """
    known = examined & np.isfinite(bbox).all(axis=1)
    if known.any():
        _check(bbox[known], sizes[known], box_format, source)
    if box_format == "xyxy":
        return np.concatenate([bbox[:, :2], bbox[:, 2:] - bbox[:, :2]], axis=1)
    return bbox * np.tile(sizes, 2) if box_format == "normalized_xywh" else bbox


def _check(bbox: np.ndarray, sizes: np.ndarray, box_format: BoxFormat | None, source: str) -> None:
    total = len(bbox)
    normalized = ((bbox >= 0) & (bbox <= 1)).all(axis=1)
    ordered = (bbox[:, 2:] > bbox[:, :2]).all(axis=1)
    if box_format is None and normalized.mean() > ALMOST_ALL:
        raise UserError(
            f"{source}: the numbers of {normalized.sum()} of {total} boxes are between 0 and 1, as if divided by the "
            f"image's size; set {OPTION.format('normalized_xywh')}, or {OPTION.format('xywh')} if they are pixels"
        )
    if box_format is None and (number := _count_corners(bbox, sizes)):
        raise UserError(
            f"{source}: {number} of {total} boxes extend beyond their image as (x, y, width, height) and fit as "
            f"corners (x1, y1, x2, y2); set {OPTION.format('xyxy')}, or {OPTION.format('xywh')} if they are right as "
            "they are"
        )
    if box_format == "normalized_xywh" and (number := _count_corners(bbox * np.tile(sizes, 2), sizes)):
        raise UserError(
            f"{source}: {number} of {total} normalized boxes extend beyond their image as (x, y, width, height) and "
            "fit as corners (x1, y1, x2, y2), which no option reads; multiply them by the image's size and set "
            f"{OPTION.format('xyxy')}"
        )
    if box_format == "xyxy" and ordered.mean() < 1 - MOST:
        raise UserError(
            f"{source}: data.box_format is 'xyxy', but {total - ordered.sum()} of {total} boxes have a second corner "
            f"left of or above the first; if they are (x, y, width, height) set {OPTION.format('xywh')}"
        )
    if box_format == "normalized_xywh" and (far := (bbox > 2).any(axis=1)).mean() > MOST:
        raise UserError(
            f"{source}: data.box_format is 'normalized_xywh', but {far.sum()} of {total} boxes have numbers above 2; "
            f"if they are in pixels set {OPTION.format('xywh')}"
        )


def _count_corners(bbox: np.ndarray, sizes: np.ndarray) -> int:
    """Number of boxes in pixels that overrun their image as xywh and fit as xyxy; 0 unless they decide the format."""
    overrun = (bbox[:, :2] + bbox[:, 2:] > sizes + TOLERANCE).any(axis=1)
    inside = (bbox[:, :2] >= -TOLERANCE).all(axis=1) & (bbox[:, 2:] <= sizes + TOLERANCE).all(axis=1)
    corners = inside & (bbox[:, 2:] > bbox[:, :2]).all(axis=1)
    both = overrun & corners
    if both.mean() > MOST or (both.mean() > SOME and corners.mean() > ALMOST_ALL):
        return int(both.sum())
    return 0
