"""Bias, residual and ReLU: the definition in TensorFlow, and the operation of one pass for GPUs with its gradient."""

from __future__ import annotations

import tensorflow as tf

from frcnn.ops import compiled


def reference(inputs: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor | None, relu: bool) -> tf.Tensor:
    """See :func:`frcnn.ops.bias_relu`. TensorFlow fuses bias and ReLU with a convolution on CPUs."""
    outputs = tf.nn.bias_add(inputs, tf.cast(bias, inputs.dtype))
    if residual is not None:
        outputs = outputs + residual
    return tf.nn.relu(outputs) if relu else outputs


def fused(inputs: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor | None, relu: bool) -> tf.Tensor:
    """See :func:`frcnn.ops.bias_relu`. Reads each input once and writes the result once, rounded once."""
    residuals = [] if residual is None else [residual]
    return compiled.operations().frcnn_bias_relu(inputs=inputs, bias=bias, residual=residuals, relu=relu)


@tf.RegisterGradient("FrcnnBiasRelu")
def _gradient(op: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor]:
    """The gradient of the bias is an operation of its own, which TensorFlow drops if the bias is not trained."""
    if op.get_attr("relu"):
        upstream = compiled.operations().frcnn_bias_relu_grad(upstream=upstream, outputs=op.outputs[0])
    of_bias = tf.cast(tf.raw_ops.BiasAddGrad(out_backprop=upstream), tf.float32)
    return [upstream, of_bias, *[upstream] * op.get_attr("N")]
