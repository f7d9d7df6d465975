"""Region proposal network (Ren et al. 2015) on a pyramid.

``logits`` are objectness before the sigmoid, ``deltas`` are encoded boxes. Both are float32 and flattened over all
levels, ``[B, A]`` and ``[B, A, 4]``, in the order of the anchors.

Only a few hundred anchors of an image are sampled for training (``rpn.samples``), so the gradient of almost all of the
head's output is zero. In training the head therefore runs twice: over the whole pyramid without gradients, for the
proposals, and with gradients on the cells of the sampled anchors only. Losses and gradients equal those of one dense
forward and backward pass; the dense backward pass would be a sixth of the arithmetic of a step (docs/results.md).
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config, ops
from frcnn.modeling import losses
from frcnn.modeling.layers import Composite, conv
from frcnn.modeling.matching import Sample, match, sample
from frcnn.modeling.top_k import top_k


class Predictions(NamedTuple):
    """RPN outputs of all levels.

    Attributes:
        logits: ``[B, A]`` float32.
        deltas: ``[B, A, 4]`` float32.
        level_sizes: number of anchors per level, a static tuple that sums to ``A``.
    """

    logits: tf.Tensor
    deltas: tf.Tensor
    level_sizes: tuple[int, ...]


class Proposals(NamedTuple):
    """Boxes likely to contain an object, best first.

    Attributes:
        boxes: ``[B, P, 4]`` float32, canvas pixels, zero where not valid.
        valid: ``[B, P]`` bool.
    """

    boxes: tf.Tensor
    valid: tf.Tensor


class RPNHead(Composite):
    """3x3 convolutions with ReLU, then objectness and box deltas per anchor; weights are shared by all levels."""

    def __init__(self, options: config.RPN, channels: int, anchors_per_cell: int, name: str = "rpn") -> None:
        super().__init__(name=name)
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        self.convs = [
            conv(channels, 3, use_bias=True, initializer=initializer, name=f"conv{i + 1}") for i in range(options.convs)
        ]
        self.objectness = conv(anchors_per_cell, 1, use_bias=True, initializer=initializer, name="objectness")
        self.deltas = conv(4 * anchors_per_cell, 1, use_bias=True, initializer=initializer, name="deltas")
        self.anchors_per_cell = anchors_per_cell

    def call(self, pyramid: list[tf.Tensor]) -> Predictions:
        """Predictions for all anchors of a pyramid whose levels are ``[B, Hl, Wl, C]``."""
        logits, deltas = [], []
        for features in pyramid:
            for layer in self.convs:
                features = layer(features, relu=True)
            logits.append(_flatten(self.objectness(features), 1)[..., 0])
            deltas.append(_flatten(self.deltas(features), 4))
        return Predictions(
            tf.concat(logits, axis=1), tf.concat(deltas, axis=1), tuple(level.shape[1] for level in logits)
        )

    def at(self, pyramid: list[tf.Tensor], anchors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits ``[B, S]`` and deltas ``[B, S, 4]`` of the anchors with indices ``[B, S]``.

        Only the receptive fields of these anchors are computed.
        """
        anchors = tf.cast(anchors, tf.int64)  # TensorFlow computes with int32 on the host
        cells, ratio = anchors // self.anchors_per_cell, anchors % self.anchors_per_cell
        patches, inside = _patches(pyramid, cells, radius=len(self.convs))
        for layer in self.convs:
            inside = inside[:, :, 1:-1, 1:-1]
            # The next convolution pads with zeros: outputs of this one beyond the border must not reach it.
            patches = tf.where(inside, tf.nn.relu(_valid_convolution(patches, layer)), 0)
        features = patches[:, :, 0, :, :]
        logits = tf.gather(self.objectness(features)[:, :, 0, :], ratio, batch_dims=2)
        deltas = tf.reshape(self.deltas(features), [*anchors.shape, self.anchors_per_cell, 4])
        return tf.cast(logits, tf.float32), tf.cast(tf.gather(deltas, ratio, batch_dims=2), tf.float32)


def _patches(pyramid: list[tf.Tensor], cells: tf.Tensor, radius: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Neighborhoods ``[B, S, k, k, C]`` with ``k = 2 radius + 1`` of cells ``[B, S]``, zero outside of the level.

    Cells are numbered over all levels. The second result, ``[B, S, k, k, 1]`` bool, is true inside of the level.
    """
    channels = pyramid[0].shape[-1]
    sizes = np.array([level.shape[1:3] for level in pyramid])
    areas = sizes.prod(axis=1)
    height, width = (tf.gather(np.repeat(side, areas).astype(np.int64), cells)[..., None, None] for side in sizes.T)
    first = tf.gather(np.repeat(np.cumsum(areas) - areas, areas).astype(np.int64), cells)[..., None, None]
    offsets = tf.range(-radius, radius + 1, dtype=tf.int64)
    row = (cells[..., None, None] - first) // width + offsets[:, None]
    column = (cells[..., None, None] - first) % width + offsets[None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    flat = tf.concat(
        [tf.reshape(level, [-1, area, channels]) for level, area in zip(pyramid, areas, strict=True)], axis=1
    )
    patches = tf.gather(flat, tf.where(inside, first + row * width + column, 0), batch_dims=1)
    return tf.where(inside[..., None], patches, 0), inside[..., None]


def _valid_convolution(patches: tf.Tensor, layer: keras.layers.Conv2D) -> tf.Tensor:
    """Apply a 3x3 layer without padding: ``[B, S, k, k, C]`` to ``[B, S, k - 2, k - 2, C']``.

    Computed as a matrix product: TensorFlow's convolution takes four times as long on many tiny images on a CPU.
    """
    side = patches.shape[2] - 2
    windows = [patches[:, :, y : y + side, x : x + side] for y in range(3) for x in range(3)]
    kernel, bias = (tf.cast(tf.convert_to_tensor(variable), patches.dtype) for variable in (layer.kernel, layer.bias))
    return tf.tensordot(tf.concat(windows, axis=-1), tf.reshape(kernel, [-1, kernel.shape[-1]]), axes=1) + bias


def _flatten(outputs: tf.Tensor, values: int) -> tf.Tensor:
    """``[B, H, W, R * values]`` to ``[B, H * W * R, values]`` float32."""
    batch, height, width, channels = outputs.shape
    return tf.cast(tf.reshape(outputs, [batch or -1, height * width * channels // values, values]), tf.float32)


def propose(
    predictions: Predictions,
    anchors: tf.Tensor,
    image_sizes: tf.Tensor,
    options: config.RPN,
    kernel: ops.Kernel,
    *,
    training: bool,
) -> Proposals:
    """Proposals: top-k per level, decode, clip to the image, NMS per level, then the best over all levels.

    Gradients are stopped: the RoI head must not train the RPN through the coordinates of its boxes.
    """
    before, after = (
        (options.pre_nms_train, options.post_nms_train) if training else (options.pre_nms_test, options.post_nms_test)
    )
    all_logits, deltas = tf.stop_gradient(predictions.logits), tf.stop_gradient(predictions.deltas)
    logits, best, levels = [], [], []
    start = 0
    for level, size in enumerate(predictions.level_sizes):
        top = top_k(all_logits[:, start : start + size], min(before, size))
        logits.append(top.values)
        best.append(top.indices + start)
        levels += [level] * top.indices.shape[1]
        start += size
    # One gather and one decoding for all levels: they are small, and each operation is a launch on a GPU.
    candidates = tf.concat(best, axis=1)
    decoded = box_ops.decode(tf.gather(deltas, candidates, batch_dims=1), tf.gather(anchors, candidates))
    all_boxes = box_ops.clip(decoded, image_sizes)
    sides = all_boxes[..., 2:] - all_boxes[..., :2]
    large_enough = tf.reduce_all(sides > options.min_box_size, axis=-1)
    ranking = tf.where(large_enough, tf.concat(logits, axis=1), -float("inf"))
    groups = tf.tile(tf.constant([levels]), [tf.shape(ranking)[0], 1])
    indices, _ = ops.nms(all_boxes, ranking, groups, iou_threshold=options.nms_iou, max_outputs=after, kernel=kernel)
    indices = tf.cast(indices, tf.int64)  # TensorFlow computes with int32 on the host
    valid = indices >= 0
    chosen = tf.gather(all_boxes, tf.maximum(indices, 0), batch_dims=1)
    return Proposals(tf.where(valid[..., None], chosen, 0.0), valid)


def assign(
    anchors: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor, options: config.RPN, seed: tf.Tensor
) -> tuple[tf.Tensor, Sample]:
    """Match all anchors to ground truth and sample those that train: matches ``[B, A]`` and the sample.

    Anchors that cross the border are kept, as in torchvision and Detectron2.
    """
    matches = match(
        anchors,
        gt_boxes,
        gt_valid,
        foreground_iou=options.foreground_iou,
        background_iou=options.background_iou,
        low_quality=True,
    )
    return matches, sample(matches, None, count=options.samples, positive_fraction=options.positive_fraction, seed=seed)


def rpn_losses(
    logits: tf.Tensor,
    deltas: tf.Tensor,
    anchors: tf.Tensor,
    gt_boxes: tf.Tensor,
    matches: tf.Tensor,
    sampled: Sample,
    options: config.RPN,
) -> dict[str, tf.Tensor]:
    """Scalars ``rpn_objectness`` and ``rpn_box`` over the sampled anchors of the batch.

    ``logits`` ``[B, S]`` and ``deltas`` ``[B, S, 4]`` are those of the sampled anchors.
    """
    matched = tf.maximum(tf.gather(matches, sampled.indices, batch_dims=1), 0)
    targets = box_ops.encode(tf.gather(gt_boxes, matched, batch_dims=1), tf.gather(anchors, sampled.indices))
    if options.normalizer == "constant":
        divisor = tf.cast(options.samples * tf.shape(logits)[0], tf.float32)
    else:
        divisor = tf.maximum(tf.reduce_sum(tf.cast(sampled.valid, tf.float32)), 1.0)
    objectness = losses.binary_cross_entropy(logits, sampled.positive)
    box = losses.smooth_l1(deltas, targets, options.smooth_l1_beta)
    return {
        "rpn_objectness": losses.masked_sum(objectness, sampled.valid) / divisor,
        "rpn_box": losses.masked_sum(box, sampled.positive[..., None]) / divisor,
    }
