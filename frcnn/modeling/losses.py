"""Element-wise loss terms of Faster R-CNN. The heads reduce and normalize them."""

from __future__ import annotations

import math

import tensorflow as tf

EPSILON = 1e-7  # of torchvision's IoU losses


def smooth_l1(predictions: tf.Tensor, targets: tf.Tensor, beta: float | tf.Tensor) -> tf.Tensor:
    """Smooth L1 loss of the inputs' shape: ``d**2 / (2 beta)`` below ``beta``, else ``|d| - beta / 2``; 0 gives L1."""
    distance = tf.abs(predictions - targets)
    if not tf.is_tensor(beta) and beta == 0:
        return distance
    return tf.where(distance < beta, 0.5 / beta * tf.square(distance), distance - 0.5 * beta)


def giou(predictions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Generalized IoU loss ``[...]`` of boxes ``[..., 4]`` (Rezatofighi et al. 2019), from 0 (equal) to 2.

    As ``torchvision.ops.generalized_box_iou_loss``; boxes must have positive sides.
    """
    iou, union = _iou(predictions, targets)
    hull = _area(*_hull(predictions, targets))
    return 1 - iou + (hull - union) / (hull + EPSILON)


def ciou(predictions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Complete IoU loss ``[...]`` of boxes ``[..., 4]`` (Zheng et al. 2020): IoU, center distance and aspect ratio.

    As ``torchvision.ops.complete_box_iou_loss``; boxes must have positive sides.
    """
    iou, _ = _iou(predictions, targets)
    low, high = _hull(predictions, targets)
    diagonal = tf.reduce_sum(tf.square(high - low), axis=-1) + EPSILON
    distance = tf.reduce_sum(tf.square(_center(predictions) - _center(targets)), axis=-1)
    aspect = 4 / math.pi**2 * tf.square(_angle(targets) - _angle(predictions))
    weight = tf.stop_gradient(aspect / (1 - iou + aspect + EPSILON))
    return 1 - iou + distance / diagonal + weight * aspect


def _iou(boxes1: tf.Tensor, boxes2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """IoU and union ``[...]`` of pairs of boxes ``[..., 4]``."""
    low, high = tf.maximum(boxes1[..., :2], boxes2[..., :2]), tf.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = tf.where(tf.reduce_all(high > low, axis=-1), _area(low, high), 0.0)
    union = sum(_area(boxes[..., :2], boxes[..., 2:]) for boxes in (boxes1, boxes2)) - intersection
    return intersection / (union + EPSILON), union


def _hull(boxes1: tf.Tensor, boxes2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Upper left and lower right corner ``[..., 2]`` of the smallest box around both."""
    return tf.minimum(boxes1[..., :2], boxes2[..., :2]), tf.maximum(boxes1[..., 2:], boxes2[..., 2:])


def _area(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    sides = high - low
    return sides[..., 0] * sides[..., 1]


def _center(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _angle(boxes: tf.Tensor) -> tf.Tensor:
    """Arctangent of width / height; its gradient is finite as long as one side is not zero."""
    return tf.atan2(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def binary_cross_entropy(logits: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Sigmoid cross-entropy per element; ``positive`` is bool with the shape of the logits."""
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(positive, logits.dtype), logits=logits)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy ``[N]`` of logits ``[N, K + 1]`` and integer labels ``[N]``."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def masked_sum(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Sum of ``values`` where ``mask`` is true; the other entries may hold anything, including NaN."""
    return tf.reduce_sum(tf.where(mask, values, 0.0))
