"""Soft-NMS (Bodla et al. 2017): lower the scores of boxes that overlap a better one of their class."""

from __future__ import annotations

import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config


def soft_nms(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    labels: tf.Tensor,
    *,
    options: config.Inference,
    iou_threshold: float,
    score_threshold: float,
    max_outputs: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best boxes of each image by their lowered scores.

    In each round the best box is chosen, and the scores of the others of its class are multiplied by ``1 - IoU`` where
    the IoU exceeds ``iou_threshold`` (linear) or by ``exp(-IoU**2 / sigma)`` (gaussian). As scores only fall, the
    choice over all classes gives the best ``max_outputs`` of what each class alone would give.

    Args:
        boxes: ``[B, N, 4]`` float32.
        scores: ``[B, N]`` float32; boxes that are not candidates have 0.
        labels: ``[B, N]`` int32.
        score_threshold: boxes whose lowered score is not above it are never chosen.

    Returns:
        Indices ``[B, max_outputs]`` int64, -1 where fewer are left, and the lowered scores ``[B, max_outputs]``; best
        first.
    """
    batch, number = scores.shape
    positions, places = tf.range(number, dtype=tf.int64), tf.range(max_outputs, dtype=tf.int64)
    labels = tf.cast(labels, tf.int64)  # TensorFlow computes with int32 on the host

    def choose(place: tf.Tensor, left: tf.Tensor, chosen: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, ...]:
        best = tf.argmax(left, axis=1)
        score = tf.gather(left, best, batch_dims=1)
        now = (places == place) & (score > score_threshold)[:, None]
        chosen, found = tf.where(now, best[:, None], chosen), tf.where(now, score[:, None], found)
        iou = box_ops.iou(tf.gather(boxes, best, batch_dims=1)[:, None], boxes)[:, 0]
        if options.soft_nms == "linear":
            factor = tf.where(iou > iou_threshold, 1 - iou, 1.0)
        else:
            factor = tf.exp(-tf.square(iou) / options.soft_nms_sigma)
        left = tf.where(labels == tf.gather(labels, best, batch_dims=1)[:, None], left * factor, left)
        return place + 1, tf.where(positions == best[:, None], 0.0, left), chosen, found

    initial = (
        tf.constant(0, tf.int64),
        scores,
        tf.fill([batch, max_outputs], tf.constant(-1, tf.int64)),
        tf.zeros([batch, max_outputs]),
    )

    def unfinished(place: tf.Tensor, left: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return (place < max_outputs) & tf.reduce_any(left > score_threshold)

    _, _, chosen, found = tf.while_loop(unfinished, choose, initial, parallel_iterations=1)
    return chosen, found
