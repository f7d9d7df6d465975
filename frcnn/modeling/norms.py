"""Normalization layers on NHWC tensors: frozen batch norm, batch norm and group norm."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from frcnn import ops
from frcnn.config import Norm


def norm(kind: Norm, epsilon: float, name: str) -> keras.layers.Layer:
    """Normalization layer of the given kind."""
    kinds: dict[str, Callable[..., keras.layers.Layer]] = {
        "frozen_bn": FrozenBatchNorm,
        "bn": BatchNorm,
        "gn": GroupNorm,
    }
    return kinds[kind](epsilon=epsilon, name=name)


class _ChannelScale(keras.layers.Layer):
    """Base class of the norms: per-channel ``gamma`` and ``beta``, float32 in every precision."""

    def __init__(self, epsilon: float, name: str) -> None:
        super().__init__(name=name)
        self.epsilon = epsilon

    def build(self, shape: tuple[int | None, ...]) -> None:
        channels = (shape[-1],)
        self.gamma = self.add_weight(shape=channels, initializer="ones", name="gamma", autocast=False)
        self.beta = self.add_weight(shape=channels, initializer="zeros", name="beta", autocast=False)

    def scaled(self, inputs: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """``gamma * (x - mean) / sqrt(variance + eps) + beta`` as one multiply-add.

        Statistics are ``[C]`` or ``[B, 1, 1, C]`` float32.
        """
        scale, shift = self.affine(mean, variance)
        return inputs * tf.cast(scale, inputs.dtype) + tf.cast(shift, inputs.dtype)

    def affine(self, mean: tf.Tensor, variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and shift of :meth:`scaled`, float32."""
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        return scale, self.beta - mean * scale

    def stored_affine(self, training: bool) -> tuple[tf.Tensor, tf.Tensor] | None:
        """Scale and shift ``[C]`` float32 if the norm does not depend on its inputs, else None."""
        return None


class FrozenBatchNorm(_ChannelScale):
    """Batch norm with fixed statistics, without trainable variables."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        super().build(shape)
        self.moving_mean = self.add_weight(shape=(shape[-1],), initializer="zeros", name="moving_mean", autocast=False)
        self.moving_variance = self.add_weight(
            shape=(shape[-1],), initializer="ones", name="moving_variance", autocast=False
        )
        self.trainable = False

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.scaled(inputs, tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance))

    def stored_affine(self, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return self.affine(tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance))


class BatchNorm(_ChannelScale):
    """Batch norm over this rank's batch; moving statistics with PyTorch's momentum of 0.1 and unbiased variance.

    The fused kernel is several times faster on a CPU than Keras's layer, which computes the moments separately.

    Attributes:
        allreduce_sum: where set, sums ``(values [N] float32, name)`` over all ranks: synchronized batch norm.
    """

    MOMENTUM = 0.1
    allreduce_sum: Callable[[tf.Tensor, str], tf.Tensor] | None = None

    def build(self, shape: tuple[int | None, ...]) -> None:
        super().build(shape)
        self.moving_mean = self.add_weight(
            shape=(shape[-1],), initializer="zeros", trainable=False, name="moving_mean", autocast=False
        )
        self.moving_variance = self.add_weight(
            shape=(shape[-1],), initializer="ones", trainable=False, name="moving_variance", autocast=False
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not (training and self.trainable):
            return self.scaled(
                inputs, tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
            )
        if self.allreduce_sum:
            outputs, mean, variance = self._synchronized(inputs, self.allreduce_sum)
        else:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                tf.convert_to_tensor(self.gamma),
                tf.convert_to_tensor(self.beta),
                epsilon=self.epsilon,
                is_training=True,
            )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving + self.MOMENTUM * (tf.stop_gradient(batch) - moving))
        return outputs

    def stored_affine(self, training: bool) -> tuple[tf.Tensor, tf.Tensor] | None:
        if training and self.trainable:
            return None
        return self.affine(tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance))

    def _synchronized(
        self, inputs: tf.Tensor, allreduce_sum: Callable[[tf.Tensor, str], tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Outputs, mean and unbiased variance over all ranks, by one differentiable all-reduce."""
        wide = tf.cast(inputs, tf.float32)
        axes = list(range(inputs.shape.rank - 1))
        count = tf.cast(tf.size(wide) // wide.shape[-1], tf.float32)
        sums = tf.concat([tf.reduce_sum(wide, axes), tf.reduce_sum(tf.square(wide), axes), count[None]], axis=0)
        first, second, count = tf.split(allreduce_sum(sums, self.path), [wide.shape[-1], wide.shape[-1], 1], axis=0)
        mean = first / count
        variance = tf.maximum(second / count - tf.square(mean), 0.0)
        return self.scaled(inputs, mean, variance), mean, variance * count / tf.maximum(count - 1, 1.0)


class GroupNorm(_ChannelScale):
    """Group norm (Wu & He 2018) with 32 groups, statistics in float32.

    Attributes:
        kernel: implementation, see :func:`frcnn.ops.group_norm`.
    """

    GROUPS = 32
    kernel: ops.Kernel = "reference"

    def call(self, inputs: tf.Tensor, relu: bool = False) -> tf.Tensor:
        gamma, beta = (tf.convert_to_tensor(variable) for variable in (self.gamma, self.beta))
        return ops.group_norm(
            inputs, gamma, beta, groups=self.GROUPS, epsilon=self.epsilon, relu=relu, kernel=self.kernel
        )
