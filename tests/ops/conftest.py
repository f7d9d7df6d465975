"""Fixtures of the tests of roi_align and nms."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for ops_oracle and shim_runs: the tests are not a package

STRIDES = (4, 8, 16, 32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240611)


@pytest.fixture
def pyramid(rng: np.random.Generator) -> list[np.ndarray]:
    """P2..P5 of two canvases of 256 x 192 pixels, five channels (not a multiple of the vector width)."""
    return [rng.normal(size=(2, 256 // stride, 192 // stride, 5)).astype(np.float32) for stride in STRIDES]


@pytest.fixture
def degenerate_boxes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of all sizes with all degenerate cases, and their image indices."""
    corners = np.sort(rng.uniform(-40, 300, size=(24, 2, 2)), axis=1)
    boxes = corners.reshape(24, 4).astype(np.float32)
    boxes[:9] = [
        [np.nan, 0, 50, 50],
        [0, 0, np.inf, 40],
        [10, 10, 10, 10],  # no area
        [50, 20, 30, 90],  # sides swapped
        [-500, -500, 900, 900],  # the canvas and much more
        [1e38, 1e38, 3e38, 3e38],  # finite, far outside
        [-3e38, -3e38, 3e38, 3e38],  # sides overflow
        [0, 0, 256, 192],
        [20, 30, 21, 31],
    ]
    images = rng.integers(0, 2, 24).astype(np.int32)
    images[20:22] = [-1, 2]
    return boxes, images
