"""Convolution as PyTorch defines it, on NHWC tensors, and with a norm after it.

TensorFlow's ``SAME`` pads asymmetrically at stride 2, so strided convolutions are given their padding. On GPUs, cuDNN
takes it; on CPUs, the inputs are padded before, because the gradient of ``tf.nn.conv2d`` has no oneDNN kernel for
explicit paddings (measured: 50 times slower in bfloat16).

A batch norm with stored statistics is an affine map of each channel: :func:`conv_norm` makes it part of the kernel and
bias of the convolution before it. This saves two passes over the activations, two more in backpropagation, and lets
TensorFlow fuse convolution, bias and ReLU. Kernels are trained through the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType

import keras
import tensorflow as tf

from frcnn import ops
from frcnn.modeling.norms import FrozenBatchNorm, GroupNorm

# Kernels and biases that include a norm by the convolution's id(), inside of :func:`folded_together`.
_FOLDED: ContextVar[Mapping[int, tuple[tf.Tensor, tf.Tensor]]] = ContextVar("folded", default=MappingProxyType({}))


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
    folded = convolution.folded or _FOLDED.get().get(id(convolution))
    if folded is None:
        affine = normalization.stored_affine(training) if convolution.built else None
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
def folded_together(
    groups: Sequence[Sequence[tuple[Conv2D, keras.layers.Layer]]], kernel: ops.Kernel = "auto"
) -> Iterator[None]:
    """Inside, :func:`conv_norm` finds the kernels and biases of convolutions with frozen norms, computed all at once.

    One by one they take seven operations per convolution and step, a fifth of those of ResNet-50.

    Args:
        groups: convolutions with their norms. The gradients of a group are computed when all of them are known.
    """
    frozen = [
        [pair for pair in group if isinstance(pair[1], FrozenBatchNorm) and pair[1].built and pair[0].folded is None]
        for group in groups
    ]
    affines = _affines([normalization for group in frozen for _, normalization in group])
    found: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    for group in filter(None, frozen):
        scales, shifts = zip(*(affines[id(normalization)] for _, normalization in group), strict=True)
        convolutions = [convolution for convolution, _ in group]
        kernels = [tf.convert_to_tensor(convolution.kernel._value) for convolution in convolutions]
        scaled = ops.channel_scale(kernels, scales, convolutions[0].compute_dtype, kernel)
        found |= {
            id(convolution): (scaled_kernel, shift)
            for convolution, scaled_kernel, shift in zip(convolutions, scaled, shifts, strict=True)
        }
    token = _FOLDED.set(found)
    try:
        yield
    finally:
        _FOLDED.reset(token)


def _affines(norms: Sequence[keras.layers.Layer]) -> dict[int, tuple[tf.Tensor, tf.Tensor]]:
    """Scale and shift of frozen norms by their id()."""
    found: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    for epsilon in sorted({layer.epsilon for layer in norms}):
        group = [layer for layer in norms if layer.epsilon == epsilon]
        gamma, beta, mean, variance = (
            tf.concat([tf.convert_to_tensor(getattr(layer, name)) for layer in group], axis=0)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = tf.math.rsqrt(variance + epsilon) * gamma
        sizes = [layer.gamma.shape[0] for layer in group]
        pairs = zip(tf.split(scale, sizes), tf.split(beta - mean * scale, sizes), strict=True)
        found |= {id(layer): pair for layer, pair in zip(group, pairs, strict=True)}
    return found
