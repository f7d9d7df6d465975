"""One example of a batch: decode, augment, resize and pad an image, and transform its boxes.

Decoding, augmentation and boxes run in Python and NumPy; flips, resizing and padding in TensorFlow, which does not hold
the GIL.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from frcnn import config, ops
from frcnn.data.coco import ImageRecord
from frcnn.data.decode import UnreadableImage, decode_without_copy
from frcnn.data.plan import canvas_number, canvases
from frcnn.data.transforms import (
    Augmentation,
    change_colors,
    compute_geometry,
    decode_reduction,
    mean_and_inverse_std,
    transform_boxes,
)
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.data.warp import warp_boxes, warp_matrix, warp_pixels


class Example(NamedTuple):
    """The part of an example that is made in Python.

    Attributes:
        pixels: ``[h, w, 3]`` uint8, not yet flipped and resized.
        extent: ``[2]`` float32, height and width of the image in these pixels; less than h and w where an image that
            was decoded at a reduced size ends within a pixel.
        geometry: ``[4, 2]`` int32: resized, offset, visible, and whether to flip vertically and horizontally.
        boxes, labels, crowd: ``[G, 4]``, ``[G]``, ``[G]``, on the canvas.
        numbers: ``[3]`` int64: image id (-1 for a blank row), height and width.
    """

    pixels: np.ndarray
    extent: np.ndarray
    geometry: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    numbers: np.ndarray


def load_example(
    record: ImageRecord | None,
    canvas: tuple[int, int],
    slots: int,
    options: config.Config,
    augmentation: Augmentation,
    unreadable_images: UnreadableImages,
) -> Example:
    """The part of an example that runs in Python.

    Args:
        record: the image; None for a blank row that only fills a batch.
        canvas: height and width, pixels.
        slots: G, the ground-truth slots.
        unreadable_images: counts images that cannot be read; such an image becomes blank and has no objects.
    """
    image = options.image
    boxes, labels, crowd = np.zeros((slots, 4), np.float32), np.zeros(slots, np.int32), np.zeros(slots, bool)
    if record is None:
        geometry = np.array([canvas, (0, 0), canvas, (0, 0)], np.int32)
        numbers = np.array([-1, *canvas])
        return Example(_blank_image(image), np.ones(2, np.float32), geometry, boxes, labels, crowd, numbers)
    size = (record.height, record.width)
    placed = compute_geometry(*size, image, augmentation, canvas)
    found, found_labels, found_crowd = record.boxes, record.labels, record.crowd
    try:
        reduction = decode_reduction(size, placed, augmentation)
        pixels, extent = _decode(record, options.data.max_pixels, reduction)
        if augmentation.warp:
            matrix = warp_matrix(augmentation.warp, size, record.boxes[~record.crowd])
            pixels = warp_pixels(pixels, augmentation.warp, matrix, tuple(_blank_image(image)[0, 0].tolist()))
            found, kept = warp_boxes(record.boxes, size, matrix)
            found, found_labels, found_crowd = found[kept], record.labels[kept], record.crowd[kept]
        pixels = change_colors(pixels, augmentation.colors)
    except UnreadableImage as error:
        unreadable_images.add(record.path, str(error))
        pixels, extent = _blank_image(image), np.ones(2, np.float32)
    else:
        moved, kept = transform_boxes(found, size, augmentation, placed)
        count = int(kept.sum())
        boxes[:count], labels[:count], crowd[:count] = moved[kept], found_labels[kept], found_crowd[kept]
    geometry = np.array([*placed, (augmentation.vertical_flip, augmentation.horizontal_flip)], np.int32)
    numbers = np.array([record.image_id, record.height, record.width])
    return Example(pixels, extent, geometry, boxes, labels, crowd, numbers)


def inference_dtype(image: config.Image) -> tf.DType:
    """Type of the images that inference takes.

    Pillow's resize yields uint8. The bilinear one is torchvision's on floating-point pixels, and inference keeps their
    fractions, so that detections equal torchvision's.
    """
    return tf.uint8 if image.resize == "pillow" else tf.float32


def prepare_image(
    pixels: np.ndarray, image: config.Image, kernel: ops.Kernel = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Prepare an image ``[h, w, 3]`` uint8 RGB for inference.

    Returns:
        Canvas ``[H, W, 3]``: float32 and normalized, or uint8, see :func:`inference_dtype`; image size ``[2]`` int32.
    """
    height, width = pixels.shape[:2]
    canvas = canvases(image)[canvas_number(height, width, image)]
    placed = compute_geometry(height, width, image, Augmentation(image.min_size[-1]), canvas)
    with tf.device("CPU:0"):
        prepared = _preparation(image, kernel)(pixels, np.array([*placed, (0, 0)], np.int32), canvas)
    # NumPy reads the memory of the tensor; numpy() would copy the canvas.
    return np.asarray(prepared), np.array(placed.visible, np.int32)


@functools.lru_cache(maxsize=8)
def _preparation(image: config.Image, kernel: ops.Kernel) -> Callable[..., tf.Tensor]:
    """:func:`resize_to_canvas` for inference as one graph, which takes less time than its operations one by one."""
    inputs = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([4, 2], tf.int32), tf.TensorSpec([2], tf.int32)]

    @tf.function(input_signature=inputs, autograph=False)
    def prepare(pixels: tf.Tensor, geometry: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            return resize_to_canvas(pixels, None, geometry, canvas, image, inference_dtype(image), kernel)

    return prepare


def resize_to_canvas(
    pixels: tf.Tensor,
    extent: tf.Tensor | None,
    geometry: tf.Tensor,
    canvas: tf.Tensor,
    image: config.Image,
    dtype: tf.DType,
    kernel: ops.Kernel,
) -> tf.Tensor:
    """The TensorFlow part of preparing an image.

    Args:
        pixels, extent, geometry: of an :class:`Example`; the extent may be None for a whole image.
        canvas: ``[2]`` int32, height and width.
        dtype: uint8, or float32 for pixels that are not rounded after the bilinear resize, normalized and not flipped.

    Returns:
        ``[H, W, 3]`` in ``image.channel_order``.
    """
    placement = ops.Placement(geometry[0], geometry[1], canvas)
    reverse_channels = image.channel_order == "bgr"
    if dtype == tf.float32:
        mean, inverse_std = mean_and_inverse_std(image)
        return ops.resize_and_normalize(
            pixels,
            placement,
            mean=mean,
            inverse_std=inverse_std,
            reverse_channels=reverse_channels,
            kernel=kernel,
        )
    return ops.resize_to_canvas(
        pixels,
        placement,
        method=image.resize,
        flips=tf.cast(geometry[3], tf.bool),
        extent=extent,
        reverse_channels=reverse_channels,
        kernel=kernel,
    )


def _decode(record: ImageRecord, max_pixels: int, reduction: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and their extent."""
    pixels, (height, width) = decode_without_copy(record.path, max_pixels, reduction=reduction)
    if (height, width) != (record.height, record.width):
        raise UnreadableImage(
            f"{record.path} is {width} x {height} pixels (upright), "
            f"but its boxes were annotated on {record.width} x {record.height}"
        )
    whole = pixels.shape[:2] == (height, width)
    return pixels, np.array([height, width], np.float32) / np.float32(1 if whole else reduction)


def _blank_image(image: config.Image) -> np.ndarray:
    """One pixel of the mean color; the resize extends it to the size of the image."""
    mean = image.mean if image.channel_order == "rgb" else image.mean[::-1]
    return np.round(mean).clip(0, 255).astype(np.uint8).reshape(1, 1, 3)
