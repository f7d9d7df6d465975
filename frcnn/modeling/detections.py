"""From the outputs of the RoI head to the detections of a batch."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config, ops
from frcnn.modeling.rpn import Proposals


class BatchDetections(NamedTuple):
    """Detections of a batch, best first, in pixels of the original images.

    Attributes:
        boxes: ``[B, D, 4]`` float32.
        scores: ``[B, D]`` float32, 0 where not valid.
        labels: ``[B, D]`` int32 in 1..K, 0 where not valid.
        counts: ``[B]`` int32.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    labels: tf.Tensor
    counts: tf.Tensor


def detect(
    scores: tf.Tensor,
    deltas: tf.Tensor,
    proposals: Proposals,
    image_sizes: tf.Tensor,
    original_sizes: tf.Tensor,
    options: config.RoIHead,
    kernel: ops.Kernel,
) -> BatchDetections:
    """Detections from the head's outputs, as in torchvision.

    Decode per class, clip, score threshold, NMS per class, best ``max_detections``, scale to original size.

    Args:
        scores: ``[B * P, K + 1]`` float32, probabilities of the background and of the classes.
        deltas: ``[B * P, K or 1, 4]`` float32, relative to the proposals.
    """
    batch, number = proposals.boxes.shape[:2]
    classes, box_classes = scores.shape[1] - 1, deltas.shape[1]
    scores = tf.reshape(scores[:, 1:], [batch, number * classes])
    boxes = box_ops.decode(
        tf.reshape(deltas, [batch, number, box_classes, 4]), proposals.boxes[:, :, None], options.box_weights
    )
    if box_classes < classes:
        boxes = tf.repeat(boxes, classes, axis=2)
    boxes = box_ops.clip(tf.reshape(boxes, [batch, number * classes, 4]), image_sizes)
    sides = boxes[..., 2:] - boxes[..., :2]
    usable = tf.repeat(proposals.valid, classes, axis=1)
    usable &= (scores > options.score_threshold) & tf.reduce_all(sides > options.min_box_size, axis=-1)
    labels = tf.tile(tf.range(1, classes + 1)[None], [batch, number])
    indices, counts = ops.nms(
        boxes, tf.where(usable, scores, -float("inf")), labels,
        iou_threshold=options.nms_iou, max_outputs=options.max_detections, kernel=kernel,
    )  # fmt: skip
    indices = tf.cast(indices, tf.int64)  # TensorFlow computes with int32 on the host
    valid = indices >= 0
    chosen = tf.maximum(indices, 0)
    ratio = tf.cast(original_sizes, tf.float32) / tf.cast(tf.maximum(image_sizes, 1), tf.float32)
    ratio = tf.reverse(ratio, axis=[-1])[:, None, :]
    scaled = tf.gather(boxes, chosen, batch_dims=1) * tf.concat([ratio, ratio], axis=-1)
    return BatchDetections(
        tf.where(valid[..., None], scaled, 0.0),
        tf.where(valid, tf.gather(scores, chosen, batch_dims=1), 0.0),
        tf.where(valid, tf.gather(labels, chosen, batch_dims=1), 0),
        counts,
    )
