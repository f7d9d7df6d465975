"""From the outputs of the RoI head to the detections of a batch."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config, ops
from frcnn.modeling.rpn import Proposals
from frcnn.modeling.soft_nms import soft_nms


class BatchDetections(NamedTuple):
    """Detections of a batch, best first, in pixels of the original images or of the canvas.

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

    def scaled(self, image_sizes: tf.Tensor, original_sizes: tf.Tensor) -> BatchDetections:
        """From pixels of images of ``image_sizes`` ``[B, 2]`` to those of ``original_sizes`` ``[B, 2]``."""
        ratio = tf.cast(original_sizes, tf.float32) / tf.cast(tf.maximum(image_sizes, 1), tf.float32)
        ratio = tf.reverse(ratio, axis=[-1])[:, None, :]
        return self._replace(boxes=self.boxes * tf.concat([ratio, ratio], axis=-1))


def detect(
    scores: tf.Tensor,
    deltas: tf.Tensor,
    proposals: Proposals,
    image_sizes: tf.Tensor,
    options: config.RoIHead,
    test: config.Inference,
    kernel: ops.Kernel,
) -> BatchDetections:
    """Detections in pixels of the canvas from the head's outputs, as in torchvision.

    Decode per class, clip, score threshold, NMS per class, best ``max_detections``.

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
    return suppress(boxes, tf.where(usable, scores, -float("inf")), labels, options, test, kernel)


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    labels: tf.Tensor,
    options: config.RoIHead,
    test: config.Inference,
    kernel: ops.Kernel,
) -> BatchDetections:
    """The best candidates after NMS or Soft-NMS per class; boxes ``[B, N, 4]``, scores and labels ``[B, N]``.

    Candidates of score ``-inf`` are none.
    """
    if test.soft_nms == "none":
        indices, counts = ops.nms(
            boxes, scores, labels,
            iou_threshold=options.nms_iou, max_outputs=options.max_detections, kernel=kernel,
        )  # fmt: skip
        indices = tf.cast(indices, tf.int64)  # TensorFlow computes with int32 on the host
        chosen_scores = tf.gather(scores, tf.maximum(indices, 0), batch_dims=1)
    else:
        indices, chosen_scores = soft_nms(
            boxes, tf.maximum(scores, 0.0), labels, options=test,
            iou_threshold=options.nms_iou, score_threshold=options.score_threshold, max_outputs=options.max_detections,
        )  # fmt: skip
        counts = tf.reduce_sum(tf.cast(indices >= 0, tf.int32), axis=1)
    valid = indices >= 0
    chosen = tf.maximum(indices, 0)
    return BatchDetections(
        tf.where(valid[..., None], tf.gather(boxes, chosen, batch_dims=1), 0.0),
        tf.where(valid, chosen_scores, 0.0),
        tf.where(valid, tf.gather(labels, chosen, batch_dims=1), 0),
        counts,
    )
