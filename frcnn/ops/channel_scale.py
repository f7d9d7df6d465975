"""Tensors times a factor per channel: the definition in TensorFlow, and the compiled kernel with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from frcnn.ops import compiled


def reference(tensors: Sequence[tf.Tensor], scales: Sequence[tf.Tensor], dtype: tf.DType) -> list[tf.Tensor]:
    """See :func:`frcnn.ops.channel_scale`."""
    return [tf.cast(tensor * scale, dtype) for tensor, scale in zip(tensors, scales, strict=True)]


def fused(tensors: Sequence[tf.Tensor], scales: Sequence[tf.Tensor], dtype: tf.DType) -> list[tf.Tensor]:
    """See :func:`frcnn.ops.channel_scale`. On a GPU, one launch per 48 tensors."""
    return list(compiled.operations().frcnn_channel_scale(inputs=list(tensors), scales=list(scales), To=dtype))


@tf.RegisterGradient("FrcnnChannelScale")
def _gradient(op: tf.Operation, *upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """The scales are constants."""
    scales = op.inputs[op.get_attr("N") :]
    return [*fused(upstream, scales, op.get_attr("From")), *[None] * len(scales)]
