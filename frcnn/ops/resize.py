"""Resizing a decoded image onto the canvas of a batch: the definition with TensorFlow and Pillow, and the operations
that do it in one pass without the GIL."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image

from frcnn.ops import compiled

ResizeFilter = Literal["bilinear", "pillow"]

# Since version 13 Pillow resizes the height first where it shrinks by more than twice as many pixels as the width.
HEIGHT_MAY_BE_FIRST = int(PIL.__version__.partition(".")[0]) >= 13


class Placement(NamedTuple):
    """Where an image is placed on its canvas; height and width, or y and x, as ``[2]`` tensors.

    Attributes:
        resized: int32, size after the resize.
        offset: int32, upper left corner of the crop in the resized image.
        canvas: int32, size of the canvas.
    """

    resized: tf.Tensor
    offset: tf.Tensor
    canvas: tf.Tensor


def resize_pillow(
    pixels: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resize an image ``[H, W, 3]`` uint8 to ``size`` (height, width) as Detectron2 does: Pillow, antialiased.

    ``box`` is the part that is resized: upper, left, lower and right edge, pixels; None for the whole image.
    """
    edges = None if box is None else (box[1], box[0], box[3], box[2])
    if edges is None and pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR, edges))


def resize_bilinear(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resize an image ``[H, W, 3]`` to ``size`` (height, width), float32, as torch's ``interpolate``: no antialias."""
    images = tf.cast(pixels, tf.float32)[None]  # the same values as of uint8 pixels, several times faster
    return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=False, half_pixel_centers=True)[0]


def normalize_on_canvas(
    pixels: tf.Tensor,
    offset: tf.Tensor,
    canvas: tf.Tensor,
    mean: np.ndarray,
    inverse_std: np.ndarray,
    reverse_channels: bool,
) -> tf.Tensor:
    """Crop, normalize and pad a resized image ``[h, w, 3]``, uint8 or float32. Returns ``[H, W, 3]`` float32."""
    pixels = pixels[offset[0] : offset[0] + canvas[0], offset[1] : offset[1] + canvas[1]]
    if reverse_channels:
        pixels = tf.reverse(pixels, axis=[-1])
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    # Rows of 3w values: broadcasting over an innermost axis of 3 takes four times as long.
    rows = tf.reshape(tf.cast(pixels, tf.float32), [height, 3 * width])
    rows = (rows - tf.tile(mean, [width])) * tf.tile(inverse_std, [width])
    rows = tf.pad(rows, [[0, canvas[0] - height], [0, 3 * (canvas[1] - width)]])
    return tf.reshape(rows, [canvas[0], canvas[1], 3])


def reference(
    pixels: tf.Tensor,
    placement: Placement,
    flips: tf.Tensor,
    extent: tf.Tensor,
    method: ResizeFilter,
    reverse_channels: bool,
) -> tf.Tensor:
    """See :func:`frcnn.ops.resize_to_canvas`."""
    resized, offset, canvas = placement
    start = tf.where(flips, tf.cast(tf.shape(pixels)[:2], tf.float32) - extent, 0.0)
    pixels = tf.raw_ops.Reverse(tensor=pixels, dims=tf.concat([flips, [reverse_channels]], axis=0))
    if method == "pillow":
        box = tf.concat([start, start + extent], axis=0)
        pixels = tf.numpy_function(lambda *inputs: np.array(resize_pillow(*inputs)), [pixels, resized, box], tf.uint8)
    else:
        # The cast truncates. The half that rounds is added before the resize, where there are usually fewer pixels.
        pixels = tf.cast(resize_bilinear(tf.cast(pixels, tf.float32) + 0.5, resized), tf.uint8)
    visible = tf.minimum(resized - offset, canvas)
    pixels = tf.slice(pixels, tf.concat([offset, [0]], axis=0), tf.concat([visible, [3]], axis=0))
    return tf.ensure_shape(tf.pad(pixels, tf.pad((canvas - visible)[:, None], [[0, 1], [1, 0]])), [None, None, 3])


def fused(
    pixels: tf.Tensor,
    placement: Placement,
    flips: tf.Tensor,
    extent: tf.Tensor,
    method: ResizeFilter,
    reverse_channels: bool,
) -> tf.Tensor:
    """See :func:`frcnn.ops.resize_to_canvas`. Reads the image and writes the canvas once."""
    return compiled.operations().frcnn_resize_to_canvas(
        pixels=pixels,
        **placement._asdict(),
        flips=flips,
        extent=extent,
        antialias=method == "pillow",
        height_may_be_first=HEIGHT_MAY_BE_FIRST,
        reverse_channels=reverse_channels,
    )


def normalized_reference(
    pixels: tf.Tensor, placement: Placement, mean: np.ndarray, inverse_std: np.ndarray, reverse_channels: bool
) -> tf.Tensor:
    """See :func:`frcnn.ops.resize_and_normalize`."""
    resized = resize_bilinear(pixels, placement.resized)
    return normalize_on_canvas(resized, placement.offset, placement.canvas, mean, inverse_std, reverse_channels)


def normalized_fused(
    pixels: tf.Tensor, placement: Placement, mean: np.ndarray, inverse_std: np.ndarray, reverse_channels: bool
) -> tf.Tensor:
    """See :func:`frcnn.ops.resize_and_normalize`. Reads the image and writes the canvas once."""
    return compiled.operations().frcnn_resize_and_normalize(
        pixels=pixels,
        **placement._asdict(),
        mean=mean.tolist(),
        inverse_std=inverse_std.tolist(),
        reverse_channels=reverse_channels,
    )


tf.no_gradient("FrcnnResizeToCanvas")
tf.no_gradient("FrcnnResizeAndNormalize")
