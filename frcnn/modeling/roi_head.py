"""RoI head: pooled proposals to classes and refined boxes (Girshick 2015, with the two-layer head of FPN).

Class 0 is background; box deltas exist for the K foreground classes only, or once for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config, ops
from frcnn.modeling import losses
from frcnn.modeling.layers import Composite, conv, conv_norm
from frcnn.modeling.matching import Sample, match, sample
from frcnn.modeling.norms import norm
from frcnn.modeling.rpn import Proposals

STRIDES = (4, 8, 16, 32)
NORM_EPS = 1e-5

# Weights of the box losses that are bounded, from MMDetection's configurations: the sum of four smooth L1 terms of
# weighted deltas is several times larger.
IOU_LOSSES = {"giou": (losses.giou, 10.0), "ciou": (losses.ciou, 12.0)}
UNIT_BOX = (0.0, 0.0, 1.0, 1.0)


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


class RoIHead(Composite):
    """Optional 3x3 convolutions, fully connected layers, then class logits and box deltas.

    Attributes:
        options: thresholds and weights that this head is trained with.
        box_classes: K, or 1 for deltas that all classes share.
    """

    def __init__(
        self,
        options: config.RoIHead,
        num_classes: int,
        channels: int,
        *,
        class_agnostic: bool = False,
        name: str = "roi_head",
    ) -> None:
        super().__init__(name=name)
        self.options = options
        self.box_classes = 1 if class_agnostic else num_classes
        self.convs = [
            conv(channels, 3, use_bias=False, initializer="he_normal", name=f"conv{i + 1}")
            for i in range(options.convs)
        ]
        kind: config.Norm = "gn" if options.norm == "gn" else "bn"  # sync_bn: see FasterRCNN.synchronize
        self.norms = [norm(kind, NORM_EPS, name=f"norm{i + 1}") for i in range(options.convs)]
        self.dense = [
            keras.layers.Dense(
                options.fc_channels, activation="relu", kernel_initializer="glorot_uniform", name=f"fc{i + 1}"
            )
            for i in range(options.fc_layers)
        ]
        small, smaller = (keras.initializers.RandomNormal(stddev=stddev) for stddev in (0.01, 0.001))
        self.class_logits = keras.layers.Dense(num_classes + 1, kernel_initializer=small, name="class_logits")
        self.box_deltas = keras.layers.Dense(4 * self.box_classes, kernel_initializer=smaller, name="box_deltas")

    @property
    def stages(self) -> list[RoIHead]:
        """The heads through which a proposal passes, as in :class:`frcnn.modeling.cascade.CascadeHead`: this one."""
        return [self]

    def call(self, pooled: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Pooled RoIs ``[N, P, P, C]`` to logits ``[N, K + 1]`` and deltas ``[N, K or 1, 4]``, float32."""
        outputs = pooled
        for layer, normalize in zip(self.convs, self.norms, strict=True):
            outputs = conv_norm(layer, normalize, outputs, training, relu=True)
        outputs = tf.reshape(outputs, [-1, outputs.shape[1] * outputs.shape[2] * outputs.shape[3]])
        for layer in self.dense:
            outputs = layer(outputs)
        deltas = tf.reshape(self.box_deltas(outputs), [-1, self.box_classes, 4])
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
    boxes = tf.gather(candidates, sampled.indices, batch_dims=1)
    return label(boxes, tf.gather(matches, sampled.indices, batch_dims=1), sampled, gt_boxes, gt_labels)


def label(
    boxes: tf.Tensor, matches: tf.Tensor, sampled: Sample, gt_boxes: tf.Tensor, gt_labels: tf.Tensor
) -> RoISample:
    """Targets of boxes ``[B, S, 4]`` that match the ground truth of indices ``[B, S]``."""
    matched = tf.maximum(matches, 0)
    labels = tf.where(sampled.positive, tf.gather(tf.cast(gt_labels, tf.int64), matched, batch_dims=1), 0)
    return RoISample(boxes, labels, tf.gather(gt_boxes, matched, batch_dims=1), sampled)


def roi_losses(logits: tf.Tensor, deltas: tf.Tensor, rois: RoISample, options: config.RoIHead) -> dict[str, tf.Tensor]:
    """Scalars ``roi_class`` and ``roi_box``, both divided by the number of sampled RoIs, positive or negative."""
    labels = tf.reshape(rois.labels, [-1])
    valid = tf.reshape(rois.sample.valid, [-1])
    divisor = tf.maximum(tf.reduce_sum(tf.cast(valid, tf.float32)), 1.0)
    agnostic = deltas.shape[1] == 1
    label_deltas = deltas[:, 0] if agnostic else tf.gather(deltas, tf.maximum(labels - 1, 0), batch_dims=1)
    box = _box_loss(label_deltas, rois, (labels > 0)[:, None], options)
    return {
        "roi_class": losses.masked_sum(losses.cross_entropy(logits, labels), valid) / divisor,
        "roi_box": losses.masked_sum(box, (labels > 0)[:, None]) / divisor,
    }


def _box_loss(deltas: tf.Tensor, rois: RoISample, positive: tf.Tensor, options: config.RoIHead) -> tf.Tensor:
    """Loss terms ``[B * S, 4]`` of the deltas, or ``[B * S, 1]`` of the decoded boxes; meaningless if not positive."""
    if options.box_loss == "smooth_l1":
        targets = tf.reshape(box_ops.encode(rois.gt_boxes, rois.boxes, options.box_weights), [-1, 4])
        return losses.smooth_l1(deltas, targets, options.smooth_l1_beta)
    loss, weight = IOU_LOSSES[options.box_loss]
    # Boxes without area have no finite gradient, not even where it is masked afterwards.
    anchors, targets = (
        tf.where(positive, tf.reshape(boxes, [-1, 4]), UNIT_BOX) for boxes in (rois.boxes, rois.gt_boxes)
    )
    return weight * loss(box_ops.decode(deltas, anchors, options.box_weights), targets)[:, None]
