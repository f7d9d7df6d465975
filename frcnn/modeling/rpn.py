"""Region proposal network (Ren et al. 2015) on a pyramid.

Naming: ``logits`` are objectness before the sigmoid, ``deltas`` are encoded boxes; both are float32 and flattened over
all levels, ``[B, A]`` and ``[B, A, 4]``, in the order of the anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config, ops
from frcnn.modeling import losses
from frcnn.modeling.layers import conv
from frcnn.modeling.matching import Sample, match, sample


class Predictions(NamedTuple):
    """Head outputs of all levels.

    Attributes:
        logits: ``[B, A]`` float32.
        deltas: ``[B, A, 4]`` float32.
        level_sizes: anchors per level, a static tuple that sums to ``A``.
    """

    logits: tf.Tensor
    deltas: tf.Tensor
    level_sizes: tuple[int, ...]


class Proposals(NamedTuple):
    """Boxes that may hold an object, best first.

    Attributes:
        boxes: ``[B, P, 4]`` float32, canvas pixels, zero where not valid.
        valid: ``[B, P]`` bool.
    """

    boxes: tf.Tensor
    valid: tf.Tensor


class RPNHead(keras.layers.Layer):
    """3x3 convolutions with ReLU, then objectness and box deltas per anchor, shared over the levels."""

    def __init__(self, options: config.RPN, channels: int, anchors_per_cell: int, name: str = "rpn") -> None:
        super().__init__(name=name)
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        self.convs = [conv(channels, 3, use_bias=True, initializer=initializer, name=f"conv{i + 1}") for i in range(options.convs)]
        self.objectness = conv(anchors_per_cell, 1, use_bias=True, initializer=initializer, name="objectness")
        self.deltas = conv(4 * anchors_per_cell, 1, use_bias=True, initializer=initializer, name="deltas")

    def call(self, pyramid: list[tf.Tensor]) -> Predictions:
        logits, deltas = [], []
        for features in pyramid:
            for layer in self.convs:
                features = tf.nn.relu(layer(features))
            logits.append(_flatten(self.objectness(features), 1)[..., 0])
            deltas.append(_flatten(self.deltas(features), 4))
        return Predictions(tf.concat(logits, axis=1), tf.concat(deltas, axis=1), tuple(level.shape[1] for level in logits))


def _flatten(outputs: tf.Tensor, values: int) -> tf.Tensor:
    """``[B, H, W, R * values]`` to ``[B, H * W * R, values]`` float32."""
    batch, height, width, channels = outputs.shape
    return tf.cast(tf.reshape(outputs, [batch or -1, height * width * channels // values, values]), tf.float32)


def propose(
    predictions: Predictions, anchors: tf.Tensor, image_sizes: tf.Tensor, options: config.RPN, kernel: ops.Kernel, *, training: bool
) -> Proposals:
    """The best boxes of each level, clipped to the image, after NMS within levels and a top-k across them.

    Gradients stop here: the RoI head must not train the RPN through its boxes' coordinates.
    """
    before, after = (options.pre_nms_train, options.post_nms_train) if training else (options.pre_nms_test, options.post_nms_test)
    boxes, logits, levels = [], [], []
    start = 0
    for level, size in enumerate(predictions.level_sizes):
        here = slice(start, start + size)
        start += size
        top = tf.math.top_k(tf.stop_gradient(predictions.logits[:, here]), min(before, size))
        deltas = tf.gather(tf.stop_gradient(predictions.deltas[:, here]), top.indices, batch_dims=1)
        boxes.append(box_ops.decode(deltas, tf.gather(anchors[here], top.indices)))
        logits.append(top.values)
        levels.append(tf.fill(tf.shape(top.indices), level))
    all_boxes = box_ops.clip(tf.concat(boxes, axis=1), image_sizes)
    sides = all_boxes[..., 2:] - all_boxes[..., :2]
    large_enough = tf.reduce_all(sides > options.min_box_size, axis=-1)
    ranking = tf.where(large_enough, tf.concat(logits, axis=1), -float("inf"))
    indices, counts = ops.nms(
        all_boxes, ranking, tf.concat(levels, axis=1), iou_threshold=options.nms_iou, max_outputs=after, kernel=kernel
    )
    valid = tf.range(after)[None, :] < counts[:, None]
    chosen = tf.gather(all_boxes, tf.maximum(indices, 0), batch_dims=1)
    return Proposals(tf.where(valid[..., None], chosen, 0.0), valid)


def assign(anchors: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor, options: config.RPN, seed: tf.Tensor) -> tuple[tf.Tensor, Sample]:
    """Match all anchors and draw those that train: ``[B, A]`` matches and the sample. No border filter, as in both peers."""
    matches = match(
        anchors, gt_boxes, gt_valid, foreground_iou=options.foreground_iou, background_iou=options.background_iou, low_quality=True
    )
    return matches, sample(matches, None, count=options.samples, positive_fraction=options.positive_fraction, seed=seed)


def rpn_losses(
    predictions: Predictions, anchors: tf.Tensor, gt_boxes: tf.Tensor, matches: tf.Tensor, drawn: Sample, options: config.RPN
) -> dict[str, tf.Tensor]:
    """Scalars ``rpn_objectness`` and ``rpn_box`` over the drawn anchors of the whole batch."""
    logits = tf.gather(predictions.logits, drawn.indices, batch_dims=1)
    deltas = tf.gather(predictions.deltas, drawn.indices, batch_dims=1)
    matched = tf.maximum(tf.gather(matches, drawn.indices, batch_dims=1), 0)
    targets = box_ops.encode(tf.gather(gt_boxes, matched, batch_dims=1), tf.gather(anchors, drawn.indices))
    if options.normalizer == "constant":
        divisor = tf.cast(options.samples * tf.shape(logits)[0], tf.float32)
    else:
        divisor = tf.maximum(tf.reduce_sum(tf.cast(drawn.valid, tf.float32)), 1.0)
    objectness = losses.binary_cross_entropy(logits, drawn.positive)
    box = losses.smooth_l1(deltas, targets, options.smooth_l1_beta)
    return {
        "rpn_objectness": losses.masked_sum(objectness, drawn.valid) / divisor,
        "rpn_box": losses.masked_sum(box, drawn.positive[..., None]) / divisor,
    }
