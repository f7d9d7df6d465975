"""Resize, flips, color jitter and large-scale jitter of images and their boxes.

Sizes and boxes are computed in NumPy. Resizing, normalization and padding of pixels run in TensorFlow, so that
tf.data's threads do not hold the GIL. The order is: warp (``warp.py``), flips and colors on the decoded uint8 image,
resize, crop (large-scale jitter only), normalization, zero padding right and bottom. Where the resized pixels are
uint8, the model normalizes (:func:`normalize`), so that a batch has a quarter of the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance

from frcnn import config
from frcnn.data.warp import MIN_VISIBLE_SIDE, Warp, sample_warp

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
        warp=sample_warp(augment, np.random.default_rng([WARP_STREAM, options.seed, epoch, image_id])),
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


def augment_pixels(pixels: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Flip an image ``[H, W, 3]`` uint8 and change its colors."""
    if augmentation.horizontal_flip:
        pixels = pixels[:, ::-1]
    if augmentation.vertical_flip:
        pixels = pixels[::-1]
    if augmentation.colors != (1.0, 1.0, 1.0):
        image = Image.fromarray(pixels)
        for enhance, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), augmentation.colors, strict=True
        ):
            image = enhance(image).enhance(factor)
        pixels = np.asarray(image)
    return np.ascontiguousarray(pixels)


def resize_pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image ``[H, W, 3]`` uint8 to ``size`` (height, width) as Detectron2 does: Pillow, antialiased."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_bilinear(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resize an image ``[H, W, 3]`` to ``size`` (height, width), float32, as torch's ``interpolate``: no antialias."""
    images = tf.cast(pixels, tf.float32)[None]  # the same values as of uint8 pixels, several times faster
    return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=False, half_pixel_centers=True)[0]


def resize_bilinear_to_uint8(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """:func:`resize_bilinear` of uint8 pixels, rounded to uint8."""
    # The cast truncates. The half that rounds is added before the resize, where there are usually fewer pixels.
    return tf.cast(resize_bilinear(tf.cast(pixels, tf.float32) + 0.5, size), tf.uint8)


def to_canvas(
    pixels: tf.Tensor, offset: tf.Tensor, canvas: tf.Tensor, image: config.Image, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Crop and pad a resized image, and normalize it unless ``dtype`` is uint8.

    Args:
        pixels: ``[h, w, 3]`` RGB, 0..255, uint8 or float32; uint8 if ``dtype`` is.
        offset: ``[2]`` (y, x), upper left corner of the crop.
        canvas: ``[2]`` height and width.
        dtype: float32, or uint8: pixel values, which the model normalizes.

    Returns:
        ``[H, W, 3]`` in ``image.channel_order``.
    """
    pixels = pixels[offset[0] : offset[0] + canvas[0], offset[1] : offset[1] + canvas[1]]
    if image.channel_order == "bgr":
        pixels = tf.reverse(pixels, axis=[-1])
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    # Rows of 3w values: broadcasting over an innermost axis of 3 takes four times as long.
    rows = tf.reshape(tf.cast(pixels, dtype), [height, 3 * width])
    if dtype == tf.float32:
        mean, inverse_std = _mean_and_inverse_std(image)
        rows = (rows - tf.tile(mean, [width])) * tf.tile(inverse_std, [width])
    rows = tf.pad(rows, [[0, canvas[0] - height], [0, 3 * (canvas[1] - width)]])
    return tf.reshape(rows, [canvas[0], canvas[1], 3])


def normalize(images: tf.Tensor, sizes: tf.Tensor, image: config.Image) -> tf.Tensor:
    """Normalize images of one canvas as :func:`to_canvas` does.

    Args:
        images: ``[B, H, W, 3]`` uint8 in ``image.channel_order``, of static shape.
        sizes: ``[B, 2]`` int32, height and width before padding.

    Returns:
        ``[B, H, W, 3]`` float32, zero in the padding.
    """
    batch, height, width, _ = images.shape
    mean, inverse_std = (np.tile(values, width) for values in _mean_and_inverse_std(image))
    rows = tf.reshape(tf.cast(images, tf.float32), [batch, height, 3 * width])
    # Compared as float32: a GPU build of TensorFlow compares int32 in host memory.
    limits = tf.cast(sizes, tf.float32)
    row, column = np.arange(height, dtype=np.float32), np.repeat(np.arange(width, dtype=np.float32), 3)
    inside = (row < limits[:, :1])[:, :, None] & (column < limits[:, 1:])[:, None, :]
    return tf.reshape(tf.where(inside, (rows - mean) * inverse_std, 0.0), images.shape)


def _mean_and_inverse_std(image: config.Image) -> tuple[np.ndarray, np.ndarray]:
    return np.array(image.mean, np.float32), 1 / np.array(image.std, np.float32)
