"""Top-k of the rows of a matrix, on GPUs row by row."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from frcnn import ops

# Columns from which rows are sorted one by one. With fewer, one block of threads per row takes about as long.
LONG_ROW = 1 << 15


class TopK(NamedTuple):
    """The largest values of each row ``[B, K]``, descending, and their columns ``[B, K]`` int64."""

    values: tf.Tensor
    indices: tf.Tensor


def top_k(values: tf.Tensor, k: int) -> TopK:
    """``tf.math.top_k``: of equal values the one with the lower index comes first.

    TensorFlow's GPU kernel sorts several rows at once with one block of threads each, which uses few of the GPU's
    multiprocessors: two rows of 268,569 anchors took 1.6 ms on an H100. A single row is sorted by the whole GPU.
    """
    batch, columns = values.shape
    if batch is None or batch == 1 or columns < LONG_ROW or not ops.uses_gpu():
        found = tf.math.top_k(values, k)
        return TopK(found.values, tf.cast(found.indices, tf.int64))
    rows = [tf.math.top_k(row, k) for row in tf.unstack(values)]
    # As int64: TensorFlow computes with int32 on the host.
    indices = [tf.cast(top.indices, tf.int64) for top in rows]
    return TopK(tf.stack([top.values for top in rows]), tf.stack(indices))
