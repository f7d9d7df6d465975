"""Which anchors or proposals train as what: matching to ground truth, and sampling."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from frcnn import boxes as box_ops

BACKGROUND, IGNORED = -1, -2


class Sample(NamedTuple):
    """Fixed-size draw from candidates, positives first.

    Attributes:
        indices: ``[B, S]`` int32 into the candidates.
        positive: ``[B, S]`` bool.
        valid: ``[B, S]`` bool; false where an image had fewer candidates than ``S``.
    """

    indices: tf.Tensor
    positive: tf.Tensor
    valid: tf.Tensor


def match(
    candidates: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor, *, foreground_iou: float, background_iou: float, low_quality: bool
) -> tf.Tensor:
    """Match every candidate box to a ground-truth box, as torchvision's ``Matcher``.

    Args:
        candidates: ``[B, N, 4]`` or ``[N, 4]`` float32.
        gt_boxes: ``[B, G, 4]`` float32.
        gt_valid: ``[B, G]`` bool; padding and crowd regions are false and match nothing.
        low_quality: also give each ground-truth box all candidates that tie for its best IoU, however low (Ren et al. 2015, 3.1.2).

    Returns:
        ``[B, N]`` int32: index of the ground-truth box, ``BACKGROUND``, or ``IGNORED`` (IoU between the two thresholds).
    """
    candidates = tf.broadcast_to(candidates, [*gt_boxes.shape[:1], *candidates.shape[-2:]]) if candidates.shape.rank == 2 else candidates
    iou = tf.where(gt_valid[:, None, :], box_ops.iou(candidates, gt_boxes), -1.0)
    best = tf.reduce_max(iou, axis=2)
    index = tf.argmax(iou, axis=2, output_type=tf.int32)
    matches = tf.where(best >= foreground_iou, index, tf.where(best >= background_iou, IGNORED, BACKGROUND))
    if low_quality:
        best_of_gt = tf.reduce_max(iou, axis=1, keepdims=True)
        # A box that no candidate touches has best IoU 0: it must not claim every candidate that misses it as well.
        # torchvision lets it; the difference needs an object that no anchor overlaps, which anchors on a grid exclude.
        ties = tf.reduce_any((iou == best_of_gt) & (best_of_gt > 0), axis=2)
        matches = tf.where(ties, index, matches)
    return matches


def sample(matches: tf.Tensor, usable: tf.Tensor | None, *, count: int, positive_fraction: float, seed: tf.Tensor) -> Sample:
    """Draw up to ``count * positive_fraction`` positives at random, and fill up with random negatives.

    Args:
        matches: ``[B, N]`` int32 from :func:`match`.
        usable: ``[B, N]`` bool or None; false for padding among the candidates.
        count: ``S``.
        seed: ``[B, 2]`` int32; the draw of an image is a pure function of its row, whatever batch it stands in.
    """
    positive = matches >= 0
    negative = matches == BACKGROUND
    if usable is not None:
        positive, negative = positive & usable, negative & usable
    count = min(count, matches.shape[1])
    most_positives = min(max(int(count * positive_fraction), 1), count)
    # Priorities lie strictly inside (0, 1): the chosen positives are those above the most_positives-th largest. Lifting them by 2 and
    # the negatives by 1 makes one top-k deliver positives first, then negatives, then nothing (0).
    priority = tf.stack(
        [tf.random.stateless_uniform(tf.shape(matches)[1:], of_image, minval=1e-6, maxval=0.999) for of_image in tf.unstack(seed)]
    )
    positive_priority = tf.where(positive, priority, 0.0)
    threshold = tf.math.top_k(positive_priority, most_positives).values[:, -1:]
    chosen = positive & (positive_priority >= threshold)
    keys = tf.where(chosen, priority + 2.0, tf.where(negative, priority + 1.0, 0.0))
    top = tf.math.top_k(keys, count)
    return Sample(top.indices, positive=top.values >= 2.0, valid=top.values > 0.0)
