"""Element-wise loss terms of Faster R-CNN. The heads reduce and normalize them."""

from __future__ import annotations

import tensorflow as tf


def smooth_l1(predictions: tf.Tensor, targets: tf.Tensor, beta: float) -> tf.Tensor:
    """Smooth L1 loss of the inputs' shape: ``d**2 / (2 beta)`` below ``beta``, else ``|d| - beta / 2``; 0 gives L1."""
    distance = tf.abs(predictions - targets)
    if beta == 0:
        return distance
    return tf.where(distance < beta, 0.5 / beta * tf.square(distance), distance - 0.5 * beta)


def binary_cross_entropy(logits: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Sigmoid cross-entropy per element; ``positive`` is bool with the shape of the logits."""
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(positive, logits.dtype), logits=logits)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy ``[N]`` of logits ``[N, K + 1]`` and integer labels ``[N]``."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def masked_sum(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Sum of ``values`` where ``mask`` is true; the other entries may hold anything, including NaN."""
    return tf.reduce_sum(tf.where(mask, values, 0.0))
