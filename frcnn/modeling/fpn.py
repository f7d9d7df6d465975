"""Feature pyramid network (Lin et al. 2017): C2..C5 to P2..P6."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from frcnn import config
from frcnn.modeling.layers import Composite, conv, conv_norm
from frcnn.modeling.norms import norm

NORM_EPS = 1e-5


class FPN(Composite):
    """1x1 lateral convolutions, nearest-neighbor top-down sums, 3x3 output convolutions.

    P6 is P5 subsampled by 2 and used by the RPN only.
    """

    def __init__(self, options: config.FPN, levels: int = 4, name: str = "fpn") -> None:
        super().__init__(name=name)
        kinds = [("lateral", 1), ("output", 3)]
        self.laterals, self.outputs = (
            [PyramidConv(options, kernel, name=f"{kind}{level + 2}") for level in range(levels)]
            for kind, kernel in kinds
        )

    def call(self, features: list[tf.Tensor], training: bool = False) -> list[tf.Tensor]:
        """``[C2, …, C5]`` to ``[P2, …, P6]``, each ``[B, Hl, Wl, channels]``; sizes must halve exactly per level."""
        laterals = [layer(feature, training=training) for layer, feature in zip(self.laterals, features, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, _add_upsampled(lateral, merged[0]))
        pyramid = [layer(level, training=training) for layer, level in zip(self.outputs, merged, strict=True)]
        return [*pyramid, pyramid[-1][:, ::2, ::2]]


class PyramidConv(Composite):
    """Convolution with a bias, or with a norm instead of it; no activation."""

    def __init__(self, options: config.FPN, kernel: int, name: str) -> None:
        super().__init__(name=name)
        initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
        self.conv = conv(
            options.channels, kernel, use_bias=options.norm == "none", initializer=initializer, name="conv"
        )
        self.norm = None if options.norm == "none" else norm(options.norm, NORM_EPS, name="norm")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.conv(inputs) if self.norm is None else conv_norm(self.conv, self.norm, inputs, training)


@tf.custom_gradient
def _add_upsampled(fine: tf.Tensor, coarse: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
    """``fine + upsample2x(coarse)``, nearest neighbor, by broadcasting: the upsampled tensor is never materialized.

    TensorFlow's own gradient of the broadcast is a sum over a tensor of six axes, which it computes by transposing.
    """
    _batch, height, width, channels = coarse.shape
    blocks = tf.reshape(fine, [-1, height, 2, width, 2, channels])
    merged = tf.reshape(blocks + coarse[:, :, None, :, None, :], [-1, 2 * height, 2 * width, channels])

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return upstream, 4 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    return merged, gradient
