"""From pictures to detections: the one way in for evaluate, predict, serve and export."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """What was found in one image, best first.

    Attributes:
        boxes: ``[D, 4]`` float32, ``(x1, y1, x2, y2)`` in pixels of the original image.
        scores: ``[D]`` float32 in (0, 1].
        labels: ``[D]`` int32 in 1..K, positions in the model's class names, counted from 1.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
