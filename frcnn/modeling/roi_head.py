"""RoI head: pooled proposals to classes and refined boxes (Girshick 2015, with the two-layer head of FPN).

Class 0 is background; box deltas exist for the K foreground classes only.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config, ops
from frcnn.modeling import losses
from frcnn.modeling.layers import conv, conv_norm, norm
from frcnn.modeling.matching import Sample, match, sample
from frcnn.modeling.rpn import Proposals

STRIDES = (4, 8, 16, 32)
NORM_EPS = 1e-5


class RoISample(NamedTuple):
    """Proposals sampled for training, with their targets.

    Attributes:
        boxes: ``[B, S, 4]`` float32.
        labels: ``[B, S]`` int64, 0 is background.
        gt_boxes: ``[B, S, 4]`` float32, the matched box of each positive.
        sample: indices of the proposals, and which are valid.
    """

    boxes: tf.Tensor
    labels: tf.Tensor
    gt_boxes: tf.Tensor
    sample: Sample


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


class RoIHead(keras.layers.Layer):
    """Optional 3x3 convolutions, fully connected layers, then class logits and class-specific box deltas."""

    def __init__(self, options: config.RoIHead, num_classes: int, channels: int, name: str = "roi_head") -> None:
        super().__init__(name=name)
        self.num_classes = num_classes
        self.convs = [
            conv(channels, 3, use_bias=False, initializer="he_normal", name=f"conv{i + 1}")
            for i in range(options.convs)
        ]
        self.norms = [norm("bn", NORM_EPS, name=f"norm{i + 1}") for i in range(options.convs)]
        self.dense = [
            keras.layers.Dense(
                options.fc_channels, activation="relu", kernel_initializer="glorot_uniform", name=f"fc{i + 1}"
            )
            for i in range(options.fc_layers)
        ]
        small, smaller = (keras.initializers.RandomNormal(stddev=stddev) for stddev in (0.01, 0.001))
        self.class_logits = keras.layers.Dense(num_classes + 1, kernel_initializer=small, name="class_logits")
        self.box_deltas = keras.layers.Dense(4 * num_classes, kernel_initializer=smaller, name="box_deltas")

    def call(self, pooled: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Pooled RoIs ``[N, P, P, C]`` to logits ``[N, K + 1]`` and deltas ``[N, K, 4]``, float32."""
        outputs = pooled
        for layer, normalize in zip(self.convs, self.norms, strict=True):
            outputs = tf.nn.relu(conv_norm(layer, normalize, outputs, training))
        outputs = tf.reshape(outputs, [-1, outputs.shape[1] * outputs.shape[2] * outputs.shape[3]])
        for layer in self.dense:
            outputs = layer(outputs)
        deltas = tf.reshape(self.box_deltas(outputs), [-1, self.num_classes, 4])
        return tf.cast(self.class_logits(outputs), tf.float32), tf.cast(deltas, tf.float32)


def pool(pyramid: list[tf.Tensor], boxes: tf.Tensor, options: config.RoIHead, kernel: ops.Kernel) -> tf.Tensor:
    """RoIAlign of boxes ``[B, N, 4]`` on P2..P5: ``[B * N, P, P, C]``."""
    batch, number = boxes.shape[0], boxes.shape[1]
    return ops.roi_align(
        pyramid[: len(STRIDES)],
        tf.reshape(boxes, [-1, 4]),
        tf.constant(np.repeat(np.arange(batch, dtype=np.int32), number)),
        strides=STRIDES,
        output_size=options.pooled_size,
        sampling_ratio=options.sampling_ratio,
        aligned=options.aligned,
        level_rule=options.level_rule,
        kernel=kernel,
    )


def assign(
    proposals: Proposals,
    gt_boxes: tf.Tensor,
    gt_labels: tf.Tensor,
    gt_valid: tf.Tensor,
    options: config.RoIHead,
    seed: tf.Tensor,
) -> RoISample:
    """Match proposals (with the ground-truth boxes appended) to ground truth, and sample those that train."""
    candidates = tf.concat([proposals.boxes, gt_boxes], axis=1)
    usable = tf.concat([proposals.valid, gt_valid], axis=1)
    matches = match(
        candidates,
        gt_boxes,
        gt_valid,
        foreground_iou=options.foreground_iou,
        background_iou=options.foreground_iou,
        low_quality=False,
    )
    sampled = sample(matches, usable, count=options.samples, positive_fraction=options.positive_fraction, seed=seed)
    matched = tf.maximum(tf.gather(matches, sampled.indices, batch_dims=1), 0)
    labels = tf.where(sampled.positive, tf.gather(tf.cast(gt_labels, tf.int64), matched, batch_dims=1), 0)
    return RoISample(
        tf.gather(candidates, sampled.indices, batch_dims=1),
        labels,
        tf.gather(gt_boxes, matched, batch_dims=1),
        sampled,
    )


def roi_losses(logits: tf.Tensor, deltas: tf.Tensor, rois: RoISample, options: config.RoIHead) -> dict[str, tf.Tensor]:
    """Scalars ``roi_class`` and ``roi_box``, both divided by the number of sampled RoIs, positive or negative."""
    labels = tf.reshape(rois.labels, [-1])
    valid = tf.reshape(rois.sample.valid, [-1])
    divisor = tf.maximum(tf.reduce_sum(tf.cast(valid, tf.float32)), 1.0)
    label_deltas = tf.gather(deltas, tf.maximum(labels - 1, 0), batch_dims=1)
    targets = tf.reshape(box_ops.encode(rois.gt_boxes, rois.boxes, options.box_weights), [-1, 4])
    box = losses.smooth_l1(label_deltas, targets, options.smooth_l1_beta)
    return {
        "roi_class": losses.masked_sum(losses.cross_entropy(logits, labels), valid) / divisor,
        "roi_box": losses.masked_sum(box, (labels > 0)[:, None]) / divisor,
    }


def detect(
    logits: tf.Tensor,
    deltas: tf.Tensor,
    proposals: Proposals,
    image_sizes: tf.Tensor,
    original_sizes: tf.Tensor,
    options: config.RoIHead,
    kernel: ops.Kernel,
) -> BatchDetections:
    """Detections from the head's outputs, as in torchvision.

    Softmax, decode per class, clip, score threshold, NMS per class, best ``max_detections``, scale to original size.
    """
    batch, number = proposals.boxes.shape[:2]
    classes = deltas.shape[1]
    scores = tf.reshape(tf.nn.softmax(logits)[:, 1:], [batch, number * classes])
    boxes = box_ops.decode(
        tf.reshape(deltas, [batch, number, classes, 4]), proposals.boxes[:, :, None], options.box_weights
    )
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
