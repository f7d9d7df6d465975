"""Group norm and ReLU: the definition in TensorFlow, and the compiled kernel with its gradient."""

from __future__ import annotations

import tensorflow as tf

from frcnn.ops import compiled


def reference(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, epsilon: float, relu: bool
) -> tf.Tensor:
    """See :func:`frcnn.ops.group_norm`. Two spatial reductions and one multiply-add."""
    members = inputs.shape[-1] // groups
    wide = tf.cast(inputs, tf.float32)

    def over_groups(per_channel: tf.Tensor) -> tf.Tensor:
        """Average channel means ``[B, C]`` within each group and repeat them over its channels: ``[B, 1, 1, C]``."""
        grouped = tf.reduce_mean(tf.reshape(per_channel, [-1, groups, members]), axis=-1, keepdims=True)
        return tf.reshape(tf.tile(grouped, [1, 1, members]), [-1, 1, 1, groups * members])

    mean = over_groups(tf.reduce_mean(wide, axis=[1, 2]))
    square = over_groups(tf.reduce_mean(tf.square(wide), axis=[1, 2]))
    scale = tf.math.rsqrt(tf.maximum(square - tf.square(mean), 0.0) + epsilon) * gamma
    outputs = inputs * tf.cast(scale, inputs.dtype) + tf.cast(beta - mean * scale, inputs.dtype)
    return tf.nn.relu(outputs) if relu else outputs


def fused(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, epsilon: float, relu: bool) -> tf.Tensor:
    """See :func:`frcnn.ops.group_norm`. Reads the inputs twice and writes the result once."""
    return (
        compiled.operations()
        .frcnn_group_norm(inputs=inputs, gamma=gamma, beta=beta, groups=groups, epsilon=epsilon, relu=relu)
        .outputs
    )


@tf.RegisterGradient("FrcnnGroupNorm")
def _gradient(
    op: tf.Operation, upstream: tf.Tensor, _mean: tf.Tensor | None, _rstd: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    inputs, gamma, beta = op.inputs
    found = compiled.operations().frcnn_group_norm_grad(
        upstream=upstream,
        inputs=inputs,
        gamma=gamma,
        beta=beta,
        mean=op.outputs[1],
        rstd=op.outputs[2],
        groups=op.get_attr("groups"),
        relu=op.get_attr("relu"),
    )
    return found.gradient, found.gamma_gradient, found.beta_gradient
