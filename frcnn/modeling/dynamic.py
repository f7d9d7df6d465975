"""Dynamic R-CNN (Zhang et al. 2020): the head's IoU threshold and the beta of its box loss follow the proposals.

As the RPN improves, more proposals have a high IoU, and the regression targets of the positives shrink. Statistics of
every step are collected, and after each ``WINDOW`` steps

    foreground_iou = max(INITIAL_IOU, mean over the steps of the IOU_RANK-th highest IoU of an image's proposals)
    smooth_l1_beta = min(INITIAL_BETA, median over the steps of the BETA_RANK-th smallest target of the positives)

where the target of a RoI is the mean of ``|dx|`` and ``|dy|``, and of B images the ``B * BETA_RANK``-th is taken. The
constants are those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config
from frcnn.modeling.matching import best_iou
from frcnn.modeling.roi_head import RoISample
from frcnn.modeling.rpn import Proposals

INITIAL_IOU, INITIAL_BETA = 0.4, 1.0
IOU_RANK, BETA_RANK = 75, 10
WINDOW = 100
SMALLEST_BETA = 1e-15  # below it the targets are degenerate, and beta stays as it is


class DynamicSchedule(tf.Module):
    """Both values and the statistics they come from.

    The variables are part of checkpoints, but not of the model: inference does not need them.

    Attributes:
        iou, beta: the current values, float32 scalars.
        history: ``[2, WINDOW]`` float32, statistics of the steps for both values; NaN where a step had none.
        steps: steps seen, float32, exact up to 2**24; int32 would be computed on the host.
        allreduce_sum: where set, sums ``(values [N] float32, name)`` over all ranks.
    """

    allreduce_sum: Callable[[tf.Tensor, str], tf.Tensor] | None = None

    def __init__(self) -> None:
        super().__init__(name="dynamic_schedule")
        self.iou = tf.Variable(INITIAL_IOU, trainable=False, name="iou")
        self.beta = tf.Variable(INITIAL_BETA, trainable=False, name="beta")
        self.history = tf.Variable(tf.zeros([2, WINDOW]), trainable=False, name="history")
        self.steps = tf.Variable(0.0, trainable=False, name="steps")

    def current(self, options: config.RoIHead) -> config.RoIHead:
        """The head's options with the current threshold and beta, which are tensors."""
        values = {"foreground_iou": tf.identity(self.iou), "smooth_l1_beta": tf.identity(self.beta)}
        return options.model_copy(update=values)

    def observe(
        self,
        proposals: Proposals,
        gt_boxes: tf.Tensor,
        gt_valid: tf.Tensor,
        rois: RoISample,
        box_weights: tuple[float, ...],
    ) -> None:
        """Record a step: the proposals, without the ground truth that is added to them, and the sampled RoIs."""
        sums = tf.stack([*_iou_sum(proposals, gt_boxes, gt_valid), *_target_sum(rois, box_weights)])
        if self.allreduce_sum:
            sums = self.allreduce_sum(sums, "dynamic_schedule")
        statistics = sums[0::2] / sums[1::2]  # NaN without an object or a positive
        now = tf.range(WINDOW, dtype=tf.float32) == tf.math.floormod(self.steps, float(WINDOW))
        self.history.assign(tf.where(now, statistics[:, None], self.history))
        self.steps.assign_add(1.0)
        self._update()

    def _update(self) -> None:
        """At the end of a window, the values that follow from its statistics."""
        due = tf.equal(tf.math.floormod(self.steps, float(WINDOW)), 0.0)
        ious, targets = tf.unstack(self.history)
        known = tf.math.is_finite(ious)
        mean = tf.math.divide_no_nan(
            tf.reduce_sum(tf.where(known, ious, 0.0)), tf.reduce_sum(tf.cast(known, tf.float32))
        )
        self.iou.assign(tf.where(due, tf.maximum(INITIAL_IOU, mean), self.iou))
        median = _median(targets)
        usable = due & tf.math.is_finite(median) & (median > SMALLEST_BETA)
        self.beta.assign(tf.where(usable, tf.minimum(INITIAL_BETA, median), self.beta))


def _iou_sum(proposals: Proposals, gt_boxes: tf.Tensor, gt_valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum of the images' IOU_RANK-th highest IoUs, and the number of images with objects."""
    overlaps = tf.where(proposals.valid, best_iou(proposals.boxes, gt_boxes, gt_valid), 0.0)
    rank = min(IOU_RANK, overlaps.shape[1])
    ranked = tf.math.top_k(overlaps, rank).values[:, -1]
    with_objects = tf.reduce_any(gt_valid, axis=1)
    return tf.reduce_sum(tf.where(with_objects, ranked, 0.0)), tf.reduce_sum(tf.cast(with_objects, tf.float32))


def _target_sum(rois: RoISample, box_weights: tuple[float, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """The batch's ranked target and 1, or 0 and 0 if it has no positive RoI."""
    positive = tf.reshape(rois.labels > 0, [-1])
    deltas = tf.reshape(box_ops.encode(rois.gt_boxes, rois.boxes, box_weights), [-1, 4])
    targets = tf.where(positive, tf.reduce_mean(tf.abs(deltas[:, :2]), axis=1), float("inf"))
    count = tf.reduce_sum(tf.cast(positive, tf.int64))
    rank = tf.minimum(tf.constant(BETA_RANK * rois.labels.shape[0], tf.int64), count)
    target = tf.gather(tf.sort(targets), tf.maximum(rank - 1, 0))
    return tf.where(count > 0, target, 0.0), tf.cast(count > 0, tf.float32)


def _median(values: tf.Tensor) -> tf.Tensor:
    """Median of the finite values; infinite if there are none."""
    known = tf.math.is_finite(values)
    count = tf.reduce_sum(tf.cast(known, tf.int64))
    ordered = tf.sort(tf.where(known, values, float("inf")))
    return (tf.gather(ordered, tf.maximum(count - 1, 0) // 2) + tf.gather(ordered, count // 2)) / 2
