"""One example of a batch: decode, augment, resize and pad an image, and transform its boxes.

Decoding, augmentation and boxes run in Python and NumPy, resizing and padding in TensorFlow, which does not hold the
GIL.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from frcnn import config
from frcnn.data.coco import ImageRecord
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.data.plan import canvas_number, canvases
from frcnn.data.transforms import (
    Augmentation,
    augment_pixels,
    compute_geometry,
    resize_bilinear,
    resize_bilinear_to_uint8,
    resize_pillow,
    to_canvas,
    transform_boxes,
)
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.data.warp import warp_boxes, warp_matrix, warp_pixels


def load_example(
    record: ImageRecord | None,
    canvas: tuple[int, int],
    slots: int,
    options: config.Config,
    augmentation: Augmentation,
    unreadable_images: UnreadableImages,
) -> tuple[np.ndarray, ...]:
    """The part of an example that runs in Python.

    Args:
        record: the image; None for a blank row that only fills a batch.
        canvas: height and width, pixels.
        slots: G, the ground-truth slots.
        unreadable_images: counts images that cannot be read; such an image becomes blank and has no objects.

    Returns:
        pixels ``[h, w, 3]`` uint8, geometry ``[3, 2]`` int32 (resized, offset, visible), boxes ``[G, 4]``, labels
        ``[G]``, crowd ``[G]``, and ``[3]`` int64 of image id (-1 for a blank row), height and width.
    """
    image = options.image
    boxes, labels, crowd = np.zeros((slots, 4), np.float32), np.zeros(slots, np.int32), np.zeros(slots, bool)
    if record is None:
        geometry = np.array([canvas, (0, 0), canvas], np.int32)
        return _blank_image(image), geometry, boxes, labels, crowd, np.array([-1, *canvas])
    size = (record.height, record.width)
    placed = compute_geometry(*size, image, augmentation, canvas)
    found, found_labels, found_crowd = record.boxes, record.labels, record.crowd
    try:
        pixels = _decode(record, options.data.max_pixels)
        if augmentation.warp:
            matrix = warp_matrix(augmentation.warp, size, record.boxes[~record.crowd])
            pixels = warp_pixels(pixels, augmentation.warp, matrix, tuple(_blank_image(image)[0, 0].tolist()))
            found, kept = warp_boxes(record.boxes, size, matrix)
            found, found_labels, found_crowd = found[kept], record.labels[kept], record.crowd[kept]
        pixels = augment_pixels(pixels, augmentation)
    except UnreadableImage as error:
        unreadable_images.add(record.path, str(error))
        pixels = _blank_image(image)
    else:
        moved, kept = transform_boxes(found, size, augmentation, placed)
        count = int(kept.sum())
        boxes[:count], labels[:count], crowd[:count] = moved[kept], found_labels[kept], found_crowd[kept]
    if image.resize == "pillow":
        pixels = resize_pillow(pixels, placed.resized)
    numbers = np.array([record.image_id, record.height, record.width])
    return pixels, np.array(placed, np.int32), boxes, labels, crowd, numbers


def inference_dtype(image: config.Image) -> tf.DType:
    """Type of the images that inference takes.

    Pillow's resize yields uint8. The bilinear one is torchvision's on floating-point pixels, and inference keeps their
    fractions, so that detections equal torchvision's.
    """
    return tf.uint8 if image.resize == "pillow" else tf.float32


def prepare_image(pixels: np.ndarray, image: config.Image) -> tuple[np.ndarray, np.ndarray]:
    """Prepare an image ``[h, w, 3]`` uint8 RGB for inference.

    Returns:
        Canvas ``[H, W, 3]``: float32 and normalized, or uint8, see :func:`inference_dtype`; image size ``[2]`` int32.
    """
    height, width = pixels.shape[:2]
    canvas = canvases(image)[canvas_number(height, width, image)]
    geometry = compute_geometry(height, width, image, Augmentation(image.min_size[-1]), canvas)
    if image.resize == "pillow":
        pixels = resize_pillow(pixels, geometry.resized)
    with tf.device("CPU:0"):
        prepared = _preparation(image)(pixels, geometry.resized, geometry.offset, canvas)
    # NumPy reads the memory of the tensor; numpy() would copy the canvas.
    return np.asarray(prepared), np.array(geometry.visible, np.int32)


@functools.lru_cache(maxsize=8)
def _preparation(image: config.Image) -> Callable[..., tf.Tensor]:
    """:func:`resize_to_canvas` for inference as one graph, which takes half the time of its operations one by one."""
    numbers = tf.TensorSpec([2], tf.int32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), *[numbers] * 3], autograph=False)
    def prepare(pixels: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            return resize_to_canvas(pixels, resized, offset, canvas, image, inference_dtype(image))

    return prepare


def resize_to_canvas(
    pixels: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, canvas: tf.Tensor, image: config.Image, dtype: tf.DType
) -> tf.Tensor:
    """The TensorFlow part of preparing an image: :func:`to_canvas` after the resize, unless Pillow already did it."""
    if image.resize == "bilinear":
        pixels = (resize_bilinear_to_uint8 if dtype == tf.uint8 else resize_bilinear)(pixels, resized)
    return to_canvas(pixels, offset, canvas, image, dtype)


def _decode(record: ImageRecord, max_pixels: int) -> np.ndarray:
    pixels = decode_image(record.path, max_pixels)
    if pixels.shape[:2] != (record.height, record.width):
        raise UnreadableImage(
            f"{record.path} is {pixels.shape[1]} x {pixels.shape[0]} pixels (upright), "
            f"but its boxes were annotated on {record.width} x {record.height}"
        )
    return pixels


def _blank_image(image: config.Image) -> np.ndarray:
    """One pixel of the mean color; the resize extends it to the size of the image."""
    mean = image.mean if image.channel_order == "rgb" else image.mean[::-1]
    return np.round(mean).clip(0, 255).astype(np.uint8).reshape(1, 1, 3)
