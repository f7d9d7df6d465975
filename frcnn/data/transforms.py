"""Resize, flips, color jitter and large-scale jitter of images and their boxes.

Sizes and boxes are computed in NumPy. Flips, resizing and padding of pixels are operations of TensorFlow, so that
tf.data's threads do not hold the GIL. The order is: warp (``warp.py``) and colors on the decoded uint8 image, flips,
resize, crop (large-scale jitter only), zero padding right and bottom: ``ops.resize_to_canvas``. Where the resized
pixels are uint8, the model normalizes (:func:`normalize`), so that a batch has a quarter of the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance

from frcnn import config
from frcnn.data.warp import MIN_VISIBLE_SIDE, Warp, sample_warp
from frcnn.ops.resize import normalize_on_canvas

# First word of each seed sequence, so that no two uses share a random stream.
ORDER_STREAM, AUGMENT_STREAM, FRACTION_STREAM, WARP_STREAM = 1, 2, 3, 4


class Augmentation(NamedTuple):
    """Augmentation of one example; the defaults change nothing. Factors are relative to 1."""

    min_size: int
    horizontal_flip: bool = False
    vertical_flip: bool = False
    scale: float = 1.0
    crop: tuple[float, float] = (0.0, 0.0)  # y, x: position of the crop, as a share of its range
    colors: tuple[float, float, float] = (1.0, 1.0, 1.0)  # brightness, contrast, saturation
    warp: Warp | None = None
    reduced_decode: bool = False  # JPEGs may be decoded at a fraction of their size


class Geometry(NamedTuple):
    """Placement of an image on its canvas, in pixels, (height, width) or (y, x)."""

    resized: tuple[int, int]
    offset: tuple[int, int]  # of the crop in the resized image
    visible: tuple[int, int]  # size of the crop, which is the image's size on the canvas


def resized_size(height: int, width: int, min_size: int, max_size: int, resize: str) -> tuple[int, int]:
    """Height and width after the resize, in double precision.

    ``bilinear`` truncates as torchvision's GeneralizedRCNNTransform does, which makes one in twenty short sides a pixel
    too short; ``pillow`` rounds halves up as Detectron2's ResizeShortestEdge does.
    """
    short, long = min(height, width), max(height, width)
    if resize == "bilinear":
        scale = min(min_size / short, max_size / long)
        new_height, new_width = int(height * scale), int(width * scale)
    else:
        scale = min_size / short
        # The short side is min_size itself and not a product, as in Detectron2; rounding would differ otherwise.
        exact = (min_size * 1.0, scale * width) if height < width else (scale * height, min_size * 1.0)
        if max(exact) > max_size:
            shrink = max_size / max(exact)
            exact = (exact[0] * shrink, exact[1] * shrink)
        new_height, new_width = int(exact[0] + 0.5), int(exact[1] + 0.5)
    return max(new_height, 1), max(new_width, 1)


def sample_augmentation(options: config.Config, epoch: int, image_id: int) -> Augmentation:
    """Random augmentation of one training example, a function of (seed, epoch, image id) alone.

    Every option has its own random number, so that enabling one does not change the others.
    """
    rng = np.random.default_rng([AUGMENT_STREAM, options.seed, epoch, image_id])
    size, flip_x, flip_y, scale, crop_y, crop_x, *colors = rng.random(9).tolist()
    augment = options.augment
    low, high = augment.scale_range or (1.0, 1.0)
    brightness, contrast, saturation = (1.0 + augment.color_jitter * (2 * color - 1) for color in colors)
    return Augmentation(
        min_size=options.image.min_size[int(size * len(options.image.min_size))],
        horizontal_flip=flip_x < augment.horizontal_flip,
        vertical_flip=flip_y < augment.vertical_flip,
        scale=low + (high - low) * scale,
        crop=(crop_y, crop_x),
        colors=(brightness, contrast, saturation),
        warp=sample_warp(augment, [WARP_STREAM, options.seed, epoch, image_id]),
        reduced_decode=options.data.reduced_decode,
    )


def compute_geometry(
    height: int, width: int, image: config.Image, augmentation: Augmentation, canvas: tuple[int, int]
) -> Geometry:
    """Resize, scale and crop of an image of ``height x width`` pixels for its canvas (height, width)."""
    resized = resized_size(height, width, augmentation.min_size, image.max_size, image.resize)
    if augmentation.scale != 1.0:
        resized = (max(round(resized[0] * augmentation.scale), 1), max(round(resized[1] * augmentation.scale), 1))
    excess = (max(resized[0] - canvas[0], 0), max(resized[1] - canvas[1], 0))
    offset = (int(augmentation.crop[0] * (excess[0] + 1)), int(augmentation.crop[1] * (excess[1] + 1)))
    return Geometry(resized, offset, (min(resized[0], canvas[0]), min(resized[1], canvas[1])))


def decode_reduction(size: tuple[int, int], geometry: Geometry, augmentation: Augmentation) -> int:
    """The factor, 1, 2, 4 or 8, by which a JPEG of ``size`` (height, width) is reduced while it is decoded.

    At most the factor of the resize, so that no detail is lost that the antialiased resize would keep. 1 for an image
    that is warped, because a warp is in pixels of the file.
    """
    if not augmentation.reduced_decode or augmentation.warp:
        return 1
    reduced_by = min(before // after for before, after in zip(size, geometry.resized, strict=True))
    return next(factor for factor in (8, 4, 2, 1) if factor <= max(reduced_by, 1))


def transform_boxes(
    boxes: np.ndarray, size: tuple[int, int], augmentation: Augmentation, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes ``[N, 4]`` of an image of ``size`` (height, width) on its canvas, and a mask ``[N]`` of those kept."""
    height, width = size
    x1, y1, x2, y2 = boxes.T
    if augmentation.horizontal_flip:
        x1, x2 = width - x2, width - x1
    if augmentation.vertical_flip:
        y1, y2 = height - y2, height - y1
    # Per axis by the actual ratio: truncation makes the axes differ.
    ratios = np.array([geometry.resized[1] / width, geometry.resized[0] / height] * 2, np.float32)
    moved = np.stack([x1, y1, x2, y2], axis=1) * ratios
    if geometry.visible == geometry.resized:
        return moved, np.ones(len(boxes), bool)
    moved -= np.array([geometry.offset[1], geometry.offset[0]] * 2, np.float32)
    clipped = np.clip(moved, 0, np.array([geometry.visible[1], geometry.visible[0]] * 2, np.float32))
    whole, left = moved[:, 2:] - moved[:, :2], clipped[:, 2:] - clipped[:, :2]
    return clipped, (left >= np.minimum(whole, MIN_VISIBLE_SIDE)).all(axis=1)


def change_colors(pixels: np.ndarray, colors: tuple[float, float, float]) -> np.ndarray:
    """Change brightness, contrast and saturation of an image ``[H, W, 3]`` uint8 by factors; 1 changes nothing."""
    if colors == (1.0, 1.0, 1.0):
        return pixels
    image = Image.fromarray(pixels)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhance, factor in zip(enhancers, colors, strict=True):
        image = enhance(image).enhance(factor)
    return np.asarray(image)


def to_canvas(pixels: tf.Tensor, offset: tf.Tensor, canvas: tf.Tensor, image: config.Image) -> tf.Tensor:
    """Crop, normalize and pad a resized image.

    Args:
        pixels: ``[h, w, 3]`` RGB, 0..255, uint8 or float32.
        offset: ``[2]`` (y, x), upper left corner of the crop.
        canvas: ``[2]`` height and width.

    Returns:
        ``[H, W, 3]`` float32 in ``image.channel_order``.
    """
    mean, inverse_std = mean_and_inverse_std(image)
    return normalize_on_canvas(pixels, offset, canvas, mean, inverse_std, image.channel_order == "bgr")


def normalize(images: tf.Tensor, sizes: tf.Tensor, image: config.Image) -> tf.Tensor:
    """Normalize images of one canvas as :func:`to_canvas` does.

    Args:
        images: ``[B, H, W, 3]`` uint8 in ``image.channel_order``, of static shape.
        sizes: ``[B, 2]`` int32, height and width before padding.

    Returns:
        ``[B, H, W, 3]`` float32, zero in the padding.
    """
    batch, height, width, _ = images.shape
    mean, inverse_std = (np.tile(values, width) for values in mean_and_inverse_std(image))
    rows = tf.reshape(tf.cast(images, tf.float32), [batch, height, 3 * width])
    # Compared as float32: a GPU build of TensorFlow compares int32 in host memory.
    limits = tf.cast(sizes, tf.float32)
    row, column = np.arange(height, dtype=np.float32), np.repeat(np.arange(width, dtype=np.float32), 3)
    inside = (row < limits[:, :1])[:, :, None] & (column < limits[:, 1:])[:, None, :]
    return tf.reshape(tf.where(inside, (rows - mean) * inverse_std, 0.0), images.shape)


def mean_and_inverse_std(image: config.Image) -> tuple[np.ndarray, np.ndarray]:
    """``image.mean`` and the reciprocal of ``image.std``, ``[3]`` float32."""
    return np.array(image.mean, np.float32), 1 / np.array(image.std, np.float32)
