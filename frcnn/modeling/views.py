"""Test-time augmentation: an image is detected at several scales and mirrored, and the detections are merged.

The image comes resized to the largest scale (:func:`at_largest_scale`); the other views are reduced from it in the
graph. So preprocessing, batching and the exported model do not know about views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config
from frcnn.config import Config
from frcnn.data.plan import STRIDE
from frcnn.modeling.detections import BatchDetections, suppress

# Canvases and the sizes of their images to detections in pixels of the canvas.
Detect = Callable[[tf.Tensor, tf.Tensor], BatchDetections]


class View(NamedTuple):
    """One way to look at an image: its scale relative to the largest one, and whether it is mirrored."""

    scale: float
    mirrored: bool


def views_of(options: config.Inference) -> list[View]:
    """The views that the options ask for, the largest scale is 1."""
    sides = (False, True) if options.flip else (False,)
    return [View(scale / max(options.scales), mirrored) for scale in options.scales for mirrored in sides]


def at_largest_scale(options: Config) -> Config:
    """The configuration whose image sizes are those of the largest scale."""
    scale, image = max(options.test.scales), options.image
    if scale == 1:
        return options
    sizes = {"min_size": (round(scale * image.min_size[-1]),), "max_size": round(scale * image.max_size)}
    return options.model_copy(update={"image": image.model_copy(update=sizes)})


def detect_views(
    detect: Detect,
    images: tf.Tensor,
    image_sizes: tf.Tensor,
    original_sizes: tf.Tensor,
    options: Config,
) -> BatchDetections:
    """Detections of all views, in pixels of the original images, after NMS or Soft-NMS over all of them.

    Args:
        detect: the detector with its usual NMS.
        images: ``[B, H, W, 3]`` at the largest scale.
    """
    found = []
    for view in views_of(options.test):
        canvases, sizes, ratio = _scaled(images, image_sizes, view.scale)
        if view.mirrored:
            canvases = _mirrored(canvases, sizes)
        detections = detect(canvases, sizes)
        boxes = _mirrored_boxes(detections.boxes, sizes) if view.mirrored else detections.boxes
        found.append(detections._replace(boxes=box_ops.clip(boxes / ratio, image_sizes)))
    boxes, scores, labels = (
        tf.concat([getattr(detections, name) for detections in found], axis=1) for name in ("boxes", "scores", "labels")
    )
    merged = suppress(
        boxes, tf.where(labels > 0, scores, -float("inf")), labels, options.roi_head, options.test, options.ops.kernel
    )
    return merged.scaled(image_sizes, original_sizes)


def _scaled(images: tf.Tensor, sizes: tf.Tensor, scale: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reduced canvases, padded to the pyramid's stride; their images' sizes; factors ``[4]`` of box coordinates."""
    if scale == 1:
        return images, sizes, tf.ones(4)
    canvas = images.shape[1:3]
    reduced = [max(1, round(scale * side)) for side in canvas]
    factors = tf.constant([new / side for new, side in zip(reduced, canvas, strict=True)], tf.float32)
    padding = [[0, -side % STRIDE] for side in reduced]
    images = tf.pad(tf.image.resize(images, reduced), [[0, 0], *padding, [0, 0]])
    # Rounded up, so that no part of an image is beyond its size.
    sizes = tf.cast(tf.math.ceil(tf.cast(sizes, tf.float32) * factors), sizes.dtype)
    return images, sizes, tf.tile(tf.reverse(factors, axis=[0]), [2])


def _mirrored(images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Each image mirrored left to right within its size; the padding stays where it is."""
    width = tf.cast(sizes[:, 1:], tf.int64)
    column = tf.range(images.shape[2], dtype=tf.int64)[None]
    return tf.gather(images, tf.where(column < width, width - 1 - column, column), axis=2, batch_dims=1)


def _mirrored_boxes(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Boxes ``[B, D, 4]`` in the mirrored images."""
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    width = tf.cast(sizes[:, 1:], boxes.dtype)
    return tf.stack([width - x2, y1, width - x1, y2], axis=-1)
