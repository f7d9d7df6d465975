"""Convolution and normalization as PyTorch defines them, on NHWC tensors.

TensorFlow's ``SAME`` pads asymmetrically at stride 2, so strided convolutions are given their padding. On GPUs, cuDNN
takes it; on CPUs, the inputs are padded before, because the gradient of ``tf.nn.conv2d`` has no oneDNN kernel for
explicit paddings (measured: 50 times slower in bfloat16).

A batch norm with stored statistics is an affine map of each channel: :func:`conv_norm` makes it part of the kernel and
bias of the convolution before it. This saves two passes over the activations, two more in backpropagation, and lets
TensorFlow fuse convolution, bias and ReLU. Kernels are trained through the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType

import keras
import tensorflow as tf

from frcnn import ops
from frcnn.config import Norm

# Scale and shift of norms by the norm's id(), inside of :func:`affines_together`.
_AFFINES: ContextVar[Mapping[int, tuple[tf.Tensor, tf.Tensor]]] = ContextVar("affines", default=MappingProxyType({}))


def conv(
    filters: int, kernel: int, stride: int = 1, *, use_bias: bool, initializer: str | keras.Initializer, name: str
) -> keras.layers.Layer:
    """Convolution ``[B, H, W, C]`` to ``[B, ceil(H / stride), ceil(W / stride), filters]``.

    All four sides are padded with ``kernel // 2`` zeros.
    """
    padding = "same" if stride == 1 and kernel > 1 else "valid"
    return Conv2D(
        filters, kernel, stride, padding=padding, use_bias=use_bias, kernel_initializer=initializer, name=name
    )


class Composite(keras.layers.Layer):
    """A layer that consists of others, each of which creates its variables when it is first called.

    Without a ``build`` method, Keras would trace ``call`` beforehand to create them, and again at each level of
    nesting: four times for a convolution of a residual block.
    """

    def build(self, shape: object) -> None:
        """Create nothing: there are no variables besides those of the parts."""


class Conv2D(keras.layers.Conv2D):
    """Convolution with a zero padding of ``kernel // 2`` on all four sides at any stride.

    Attributes:
        folded: kernel in the compute dtype and bias in float32 that include a batch norm, after :meth:`fold`.
        bias_kernel: implementation, see :func:`frcnn.ops.bias_relu`.
    """

    folded: tuple[tf.Variable, tf.Variable] | None = None
    bias_kernel: ops.Kernel = "reference"

    def call(self, inputs: tf.Tensor, relu: bool = False) -> tf.Tensor:
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias._value)  # float32 in every precision
        return self.convolve(inputs, self.kernel, bias, relu=relu)

    def convolve(
        self,
        inputs: tf.Tensor,
        kernel: tf.Tensor,
        bias: tf.Tensor | None,
        residual: tf.Tensor | None = None,
        relu: bool = False,
    ) -> tf.Tensor:
        """The convolution with a given kernel and bias, plus ``residual``, then ReLU if ``relu``."""
        pad = self.kernel_size[0] // 2 if self.padding == "valid" else 0
        padding = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        if pad and ops.uses_gpu():
            outputs = tf.nn.conv2d(inputs, tf.cast(kernel, inputs.dtype), self.strides, padding)
        else:
            outputs = self.convolution_op(tf.pad(inputs, padding) if pad else inputs, kernel)
        # Keras adds the bias as a reshaped tensor, which TensorFlow does not fuse with the convolution.
        if bias is not None:
            return ops.bias_relu(outputs, bias, residual, relu=relu, kernel=self.bias_kernel)
        return _add_and_activate(outputs, residual, relu)

    def fold(self, normalization: keras.layers.Layer) -> None:
        """Fold a norm with stored statistics into kernel and bias, for inference with fixed weights."""
        affine = normalization.stored_affine(training=False)
        if affine is not None:
            kernel, bias = _folded(self, *affine)
            kernel = tf.cast(kernel, self.compute_dtype)  # once, not in every call
            self.folded = (tf.Variable(kernel, trainable=False), tf.Variable(bias, trainable=False))


def conv_norm(
    convolution: Conv2D,
    normalization: keras.layers.Layer,
    inputs: tf.Tensor,
    training: bool = False,
    relu: bool = False,
    residual: tf.Tensor | None = None,
) -> tf.Tensor:
    """``normalization(convolution(inputs))``, plus ``residual``, then ReLU if ``relu``, in few passes.

    A norm that uses stored statistics is folded into the convolution; group norm includes the ReLU.
    """
    folded = convolution.folded
    if folded is None:
        affine = _AFFINES.get().get(id(normalization))
        if affine is None and convolution.built:
            affine = normalization.stored_affine(training)
        if affine is None and isinstance(normalization, GroupNorm) and residual is None:
            return normalization(convolution(inputs), relu=relu)
        if affine is None:
            return _add_and_activate(normalization(convolution(inputs), training=training), residual, relu)
        folded = _folded(convolution, *affine)
    kernel, bias = folded
    return convolution.convolve(inputs, tf.cast(kernel, inputs.dtype), bias, residual, relu)


def _add_and_activate(outputs: tf.Tensor, residual: tf.Tensor | None, relu: bool) -> tf.Tensor:
    if residual is not None:
        outputs = outputs + residual
    return tf.nn.relu(outputs) if relu else outputs


def _folded(convolution: Conv2D, scale: tf.Tensor, shift: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Kernel and bias float32; the product is rounded once, also in half precision."""
    with tf.name_scope("fold"):
        return tf.convert_to_tensor(convolution.kernel._value) * scale, shift


@contextlib.contextmanager
def affines_together(norms: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Inside, :func:`conv_norm` finds the scales and shifts of the frozen norms among ``norms``, computed all at once.

    Norm by norm they take four operations each, a tenth of what a training step of ResNet-50 dispatches.
    """
    frozen = [layer for layer in norms if isinstance(layer, FrozenBatchNorm) and layer.built]
    found: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    for epsilon in sorted({layer.epsilon for layer in frozen}):
        group = [layer for layer in frozen if layer.epsilon == epsilon]
        gamma, beta, mean, variance = (
            tf.concat([tf.convert_to_tensor(getattr(layer, name)) for layer in group], axis=0)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = tf.math.rsqrt(variance + epsilon) * gamma
        sizes = [layer.gamma.shape[0] for layer in group]
        pairs = zip(tf.split(scale, sizes), tf.split(beta - mean * scale, sizes), strict=True)
        found |= {id(layer): pair for layer, pair in zip(group, pairs, strict=True)}
    token = _AFFINES.set(found)
    try:
        yield
    finally:
        _AFFINES.reset(token)


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
