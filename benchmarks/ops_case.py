"""Pyramid and boxes of the RoIAlign benchmarks, and the least memory traffic."""

from __future__ import annotations

import numpy as np

from frcnn.ops.reference import level_starts

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH, CHANNELS = 800, 1333, 256
POOLED = 7
MAP_SIZES = tuple((-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in STRIDES)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Sides of 32 to 600 pixels, evenly in the logarithm, anywhere on the canvas."""
    size, aspect = np.exp(rng.uniform(np.log(32), np.log(600), count)), np.exp(rng.uniform(-0.7, 0.7, count))
    center = rng.uniform(0, 1, (count, 2)) * (WIDTH, HEIGHT)
    half = np.stack([size * np.sqrt(aspect), size / np.sqrt(aspect)], axis=1) / 2
    return np.concatenate([(center - half).clip(0), np.minimum(center + half, (WIDTH, HEIGHT))], axis=1).astype(
        np.float32
    )


def levels_of(boxes: np.ndarray) -> np.ndarray:
    """Pyramid level of each box, 0..3."""
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return (sizes[:, None] >= np.float32(level_starts(STRIDES, "torchvision"))).sum(axis=1)


def touched_bytes(boxes: np.ndarray, levels: np.ndarray) -> int:
    """Float32 feature bytes under the boxes, each pixel counted once."""
    pixels = 0
    for level, stride in enumerate(STRIDES):
        touched = np.zeros(MAP_SIZES[level], bool)
        for x1, y1, x2, y2 in boxes[levels == level] / stride:
            touched[int(y1) : int(np.ceil(y2)) + 1, int(x1) : int(np.ceil(x2)) + 1] = True
        pixels += int(touched.sum())
    return pixels * CHANNELS * 4


def pyramid_bytes() -> int:
    return sum(height * width for height, width in MAP_SIZES) * CHANNELS * 4


def pooled_bytes(count: int) -> int:
    return count * POOLED * POOLED * CHANNELS * 4
