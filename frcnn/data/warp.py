"""Rotation, shear, random crop, blur and noise of training images, with their boxes.

All of it is applied to the decoded image, before flips, colors and the resize, and keeps the image's size: rotation,
shear and crop are one affine map and one resampling. A rotated box is the box that encloses its rotated corners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from frcnn import config

MIN_VISIBLE_SIDE = 1.0  # pixels; boxes of which less is left inside the image are dropped


class Warp(NamedTuple):
    """What is done to one example; the defaults change nothing.

    Attributes:
        rotation: counterclockwise, degrees.
        shear: of the x and y axis, degrees.
        zoom: side of the crop as a share of the image's, which is enlarged to the image's size.
        crop: y, x: position of the crop, as a share of its range.
        kept_box: which box the crop contains, as a share of their number.
        blur: radius of a Gaussian, pixels.
        noise: standard deviation, on the 0..255 scale.
        noise_seed: of the noise.
    """

    rotation: float = 0.0
    shear: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    crop: tuple[float, float] = (0.0, 0.0)
    kept_box: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0


def sample_warp(augment: config.Augment, seed: Sequence[int]) -> Warp | None:
    """A random warp; None if all its options are off. Every option has its own random numbers."""
    if not (augment.rotation or augment.shear or augment.crop is not None or augment.blur or augment.noise):
        return None
    rng = np.random.default_rng(seed)
    turn, shear_x, shear_y, zoom, crop_y, crop_x, kept, blur, noise = rng.random(9).tolist()
    smallest = 1.0 if augment.crop is None else augment.crop
    return Warp(
        rotation=augment.rotation * (2 * turn - 1),
        shear=(augment.shear * (2 * shear_x - 1), augment.shear * (2 * shear_y - 1)),
        zoom=smallest + (1 - smallest) * zoom,
        crop=(crop_y, crop_x),
        kept_box=kept,
        blur=augment.blur * blur,
        noise=augment.noise * noise,
        noise_seed=int(rng.integers(2**31)),
    )


def warp_matrix(warp: Warp, size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """The affine map ``[2, 3]`` float64 from (x, y, 1) in an image of ``size`` (height, width) to the warped image.

    Rotation and shear are about the center. The crop contains one of ``boxes`` ``[N, 4]`` as a whole, if one is visible
    and fits into it.
    """
    height, width = size
    center = np.array([width, height]) / 2
    angle, slant_x, slant_y = (math.radians(degrees) for degrees in (warp.rotation, *warp.shear))
    # y points down, so that a positive angle turns counterclockwise as seen.
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    linear = turn @ np.array([[1.0, math.tan(slant_x)], [math.tan(slant_y), 1.0]])
    matrix = np.column_stack([linear, center - linear @ center])
    if warp.zoom == 1.0:
        return matrix
    window = warp.zoom * np.array([width, height])
    low, high = np.zeros(2), np.array([width, height]) - window
    moved, kept = warp_boxes(boxes, size, matrix)
    if kept.any():
        box = moved[kept][int(warp.kept_box * int(kept.sum()))].astype(np.float64)
        first, last = np.maximum(low, box[2:] - window), np.minimum(high, box[:2])
        fits = first <= last
        low, high = np.where(fits, first, low), np.where(fits, last, high)
    origin = low + np.array(warp.crop[::-1]) * (high - low)
    matrix[:, 2] -= origin
    return matrix / warp.zoom


def warp_boxes(boxes: np.ndarray, size: tuple[int, int], matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes ``[N, 4]`` that enclose the mapped corners, clipped to the image, and a mask ``[N]`` of those kept."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].astype(np.float64)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    whole = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    clipped = np.clip(whole, 0, [size[1], size[0]] * 2)
    left, full = clipped[:, 2:] - clipped[:, :2], whole[:, 2:] - whole[:, :2]
    return clipped.astype(np.float32), (left >= np.minimum(full, MIN_VISIBLE_SIDE)).all(axis=1)


def warp_pixels(pixels: np.ndarray, warp: Warp, matrix: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """An image ``[H, W, 3]`` uint8 after map, blur and noise; uncovered places have the color ``fill``."""
    image = Image.fromarray(pixels)
    if not np.array_equal(matrix, np.eye(2, 3)):
        inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))
        image = image.transform(
            image.size,
            Image.Transform.AFFINE,
            tuple(inverse[:2].ravel().tolist()),
            Image.Resampling.BILINEAR,
            fillcolor=fill,
        )
    if warp.blur:
        image = image.filter(ImageFilter.GaussianBlur(warp.blur))
    warped = np.asarray(image)
    if warp.noise:
        drawn = np.random.default_rng(warp.noise_seed).standard_normal(warped.shape, np.float32)
        warped = np.clip(np.rint(warped + np.float32(warp.noise) * drawn), 0, 255).astype(np.uint8)
    return warped
