"""Assignment of anchors and proposals to ground truth, and sampling of those that train.

On a GPU, TensorFlow computes with int32 in host memory: it would copy tensors of the size of all anchors to the host
and back. So indices are int64, or float32 where that is faster; it is exact up to 2**24 boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn.modeling.top_k import top_k

BACKGROUND, IGNORED = -1, -2

# Ground-truth boxes compared with all candidates at once. 16 and 32 take more memory and were no faster on a CPU.
CHUNK = 8


class Sample(NamedTuple):
    """Fixed-size sample of the candidates, positives first.

    Attributes:
        indices: ``[B, S]`` int64 into the candidates.
        positive: ``[B, S]`` bool.
        valid: ``[B, S]`` bool; false where an image has fewer candidates than ``S``.
    """

    indices: tf.Tensor
    positive: tf.Tensor
    valid: tf.Tensor


def match(
    candidates: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_valid: tf.Tensor,
    *,
    foreground_iou: float | tf.Tensor,
    background_iou: float | tf.Tensor,
    low_quality: bool,
) -> tf.Tensor:
    """Match every candidate box to a ground-truth box, as torchvision's ``Matcher`` does.

    Ground truth is processed in chunks up to the last valid box of the batch. So memory is that of ``[B, CHUNK, N]``
    for any ``G``, and one crowded image of a dataset, which makes ``G`` large, costs nothing in batches without it.

    Args:
        candidates: ``[B, N, 4]`` or ``[N, 4]`` float32.
        gt_boxes: ``[B, G, 4]`` float32; ``B``, ``G`` and ``N`` are static.
        gt_valid: ``[B, G]`` bool; padding and crowd regions are false and match nothing.
        low_quality: also match each ground-truth box to all candidates that tie for its best IoU, however low
            (Ren et al. 2015, section 3.1.2).

    Returns:
        ``[B, N]`` int64: index of the ground-truth box (the first of several with the same IoU), ``BACKGROUND``, or
        ``IGNORED`` (IoU between the two thresholds).
    """
    best, index, tied = _best_matches(candidates, gt_boxes, gt_valid, low_quality)
    unmatched = tf.where(best >= background_iou, float(IGNORED), float(BACKGROUND))
    matches = tf.where(tied | (best >= foreground_iou), index, unmatched)
    return tf.cast(matches, tf.int64)


def best_iou(candidates: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor) -> tf.Tensor:
    """Highest IoU ``[B, N]`` of candidates with ground-truth boxes, -1 without one; arguments as for :func:`match`."""
    return _best_matches(candidates, gt_boxes, gt_valid, low_quality=False)[0]


def _best_matches(
    candidates: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor, low_quality: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Fields of :class:`_ChunkMatch` over all ground truth, chunk by chunk."""
    batch, slots = gt_valid.shape
    chunks = -(-slots // CHUNK)
    missing = chunks * CHUNK - slots
    boxes = tf.reshape(tf.pad(gt_boxes, [[0, 0], [0, missing], [0, 0]]), [batch, chunks, CHUNK, 4])
    valid = tf.reshape(tf.pad(gt_valid, [[0, 0], [0, missing]]), [batch, chunks, CHUNK])
    filled = tf.reduce_max(tf.where(tf.reduce_any(valid, axis=[0, 2]), tf.range(1, chunks + 1), 0))

    def add_chunk(number: tf.Tensor, best: tf.Tensor, index: tf.Tensor, tied: tf.Tensor) -> tuple[tf.Tensor, ...]:
        in_chunk = _match_chunk(
            candidates, tf.gather(boxes, number, axis=1), tf.gather(valid, number, axis=1), low_quality
        )
        # Strictly better only, so that the first of equal boxes is kept.
        index = tf.where(in_chunk.iou > best, in_chunk.index + tf.cast(number * CHUNK, tf.float32), index)
        return number + 1, tf.maximum(best, in_chunk.iou), index, tied | in_chunk.tied

    shape = [batch, candidates.shape[-2]]
    initial = (tf.constant(0), tf.fill(shape, -1.0), tf.zeros(shape), tf.zeros(shape, tf.bool))
    # Parallel iterations would need the memory of several chunks.
    _, best, index, tied = tf.while_loop(lambda number, *_: number < filled, add_chunk, initial, parallel_iterations=1)
    return best, index, tied


class _ChunkMatch(NamedTuple):
    """Best IoU of each candidate in a chunk, its index (float32), whether it ties for a box's best; all ``[B, N]``."""

    iou: tf.Tensor
    index: tf.Tensor
    tied: tf.Tensor


def _match_chunk(candidates: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor, low_quality: bool) -> _ChunkMatch:
    # Candidates are the last axis, so that reductions over the short axis are vectorized.
    iou = tf.where(gt_valid[..., None], box_ops.iou(gt_boxes, candidates), -1.0)
    best = tf.reduce_max(iou, axis=1)
    # The first box with the best IoU; tf.argmax is slower on a CPU.
    positions = tf.range(CHUNK, dtype=tf.float32)[:, None]
    index = tf.reduce_min(tf.where(iou == best[:, None], positions, float(CHUNK)), axis=1)
    if not low_quality:
        return _ChunkMatch(best, index, tf.zeros_like(best, tf.bool))
    best_of_gt = tf.reduce_max(iou, axis=2, keepdims=True)
    # A box that overlaps no candidate has a best IoU of 0 and must not match all candidates with IoU 0. In torchvision
    # it does; anchors on a grid leave no such box.
    tied = tf.reduce_any((iou == best_of_gt) & (best_of_gt > 0), axis=1)
    return _ChunkMatch(best, index, tied)


def sample(
    matches: tf.Tensor, usable: tf.Tensor | None, *, count: int, positive_fraction: float, seed: tf.Tensor
) -> Sample:
    """Sample up to ``count * positive_fraction`` positives at random, and fill up with random negatives.

    Args:
        matches: ``[B, N]`` int64 from :func:`match`.
        usable: ``[B, N]`` bool or None; false for padding among the candidates, which is never sampled.
        count: ``S``.
        seed: ``[B, 2]`` int32; the sample of an image is a pure function of its seed, independent of its batch.
    """
    positive = matches >= 0
    negative = matches == BACKGROUND
    if usable is not None:
        positive, negative = positive & usable, negative & usable
    count = min(count, matches.shape[1])
    most_positives = min(max(int(count * positive_fraction), 1), count)
    # Random priorities in (0, 1); the positives with the largest ones are chosen. Adding 2 to theirs and 1 to those of
    # the negatives lets one top-k return positives first, then negatives, then padding (0).
    priority = tf.stack(
        [
            tf.random.stateless_uniform(tf.shape(matches)[1:], image_seed, minval=1e-6, maxval=0.999)
            for image_seed in tf.unstack(seed)
        ]
    )
    positive_priority = tf.where(positive, priority, 0.0)
    threshold = top_k(positive_priority, most_positives).values[:, -1:]
    chosen = positive & (positive_priority >= threshold)
    keys = tf.where(chosen, priority + 2.0, tf.where(negative, priority + 1.0, 0.0))
    top = top_k(keys, count)
    return Sample(top.indices, positive=top.values >= 2.0, valid=top.values > 0.0)
