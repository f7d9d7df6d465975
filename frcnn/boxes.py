"""Box arithmetic: area, IoU, clip, encode, decode.

Boxes are ``(x1, y1, x2, y2)`` float32 in absolute pixels, with exclusive ``x2`` and ``y2``: the width is ``x2 - x1``,
without "+1", as in torchvision, Detectron2 and COCO. Leading axes are batch axes and broadcast.
"""

from __future__ import annotations

import math

import tensorflow as tf

# Decoding lets a side grow by a factor of at most 1000 / 16 (torchvision, Detectron2), so that an untrained regressor
# cannot overflow float32.
MAX_LOG_RATIO = math.log(1000.0 / 16)


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Areas ``[..., N]`` of boxes ``[..., N, 4]``, square pixels; negative sides count as zero."""
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def intersection(boxes1: tf.Tensor, boxes2: tf.Tensor) -> tf.Tensor:
    """Intersection areas ``[..., N, M]`` of boxes ``[..., N, 4]`` and ``[..., M, 4]``, square pixels."""
    # Coordinate by coordinate: a tensor [..., N, M, 2] would need twice the memory and a strided reduction.
    x1, y1, x2, y2 = tf.unstack(boxes1[..., :, None, :], axis=-1)
    u1, v1, u2, v2 = tf.unstack(boxes2[..., None, :, :], axis=-1)
    width = tf.maximum(tf.minimum(x2, u2) - tf.maximum(x1, u1), 0.0)
    height = tf.maximum(tf.minimum(y2, v2) - tf.maximum(y1, v1), 0.0)
    return width * height


def iou(boxes1: tf.Tensor, boxes2: tf.Tensor) -> tf.Tensor:
    """Intersection over union ``[..., N, M]`` of boxes ``[..., N, 4]`` and ``[..., M, 4]``; 0 where both are empty."""
    overlap = intersection(boxes1, boxes2)
    union = area(boxes1)[..., :, None] + area(boxes2)[..., None, :] - overlap
    return tf.math.divide_no_nan(overlap, union)


def clip(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Boxes ``[..., N, 4]`` clipped to images of ``sizes`` ``[..., 2]`` (height, width), pixels."""
    limits = tf.cast(sizes, boxes.dtype)[..., None, :]
    limits = tf.reverse(limits, axis=[-1])
    limits = tf.concat([limits, limits], axis=-1)
    return tf.minimum(tf.maximum(boxes, 0.0), limits)


def encode(boxes: tf.Tensor, anchors: tf.Tensor, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> tf.Tensor:
    """Regression targets ``(dx, dy, dw, dh)`` ``[..., 4]`` from ``anchors`` to ``boxes``, as in R-CNN.

    Anchors or boxes without area (padding) give zeros, so that masked entries stay finite.
    """
    center, sides = _center_and_sides(boxes)
    anchor_center, anchor_sides = _center_and_sides(anchors)
    usable = tf.reduce_all((sides > 0) & (anchor_sides > 0), axis=-1, keepdims=True)
    safe_anchor_sides = tf.where(usable, anchor_sides, 1.0)
    shift = (center - anchor_center) / safe_anchor_sides
    scale = tf.math.log(tf.where(usable, sides, 1.0) / safe_anchor_sides)
    deltas = tf.concat([shift, scale], axis=-1) * tf.constant(weights, boxes.dtype)
    return tf.where(usable, deltas, 0.0)


def decode(deltas: tf.Tensor, anchors: tf.Tensor, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> tf.Tensor:
    """Boxes ``[..., 4]`` from ``deltas`` ``[..., 4]`` and ``anchors`` ``[..., 4]``: the inverse of :func:`encode`.

    ``dw`` and ``dh`` are clamped to ``MAX_LOG_RATIO``.
    """
    deltas = deltas / tf.constant(weights, deltas.dtype)
    center, sides = _center_and_sides(anchors)
    center = deltas[..., :2] * sides + center
    sides = tf.exp(tf.minimum(deltas[..., 2:], MAX_LOG_RATIO)) * sides
    return tf.concat([center - 0.5 * sides, center + 0.5 * sides], axis=-1)


def _center_and_sides(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides
