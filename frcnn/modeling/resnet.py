"""ResNet backbone (He et al. 2015): images to the feature maps C2..C5.

By default the v1.5 variant of torchvision (stride in the 3x3 convolution); ``stride_in_1x1`` selects that of MSRA and
Detectron2.
"""

from __future__ import annotations

import functools
import itertools

import keras
import tensorflow as tf

from frcnn import config
from frcnn.modeling.layers import Composite, conv, conv_norm
from frcnn.modeling.norms import norm

# Blocks per stage, and whether a block is a bottleneck; table 1 of the paper.
DEPTHS: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
BOTTLENECK_EXPANSION = 4
INITIALIZER = "he_normal"


class ConvNorm(Composite):
    """Convolution without bias, norm, optionally the sum with a residual, and optionally ReLU."""

    def __init__(
        self, filters: int, kernel: int, stride: int, options: config.Backbone, *, relu: bool, name: str
    ) -> None:
        super().__init__(name=name)
        self.conv = conv(filters, kernel, stride, use_bias=False, initializer=INITIALIZER, name="conv")
        self.norm = norm(options.norm, options.norm_eps, name="norm")
        self.relu = relu

    def call(self, inputs: tf.Tensor, training: bool = False, residual: tf.Tensor | None = None) -> tf.Tensor:
        return conv_norm(self.conv, self.norm, inputs, training, self.relu, residual)


class Block(Composite):
    """Residual block: two 3x3 convolutions, or 1x1-3x3-1x1 for bottlenecks; projection shortcut where shapes change."""

    def __init__(
        self, filters: int, stride: int, options: config.Backbone, *, bottleneck: bool, project: bool, name: str
    ) -> None:
        super().__init__(name=name)
        width = filters * BOTTLENECK_EXPANSION if bottleneck else filters
        first, second = (stride, 1) if options.stride_in_1x1 else (1, stride)
        if bottleneck:
            plan = [(filters, 1, first), (filters, 3, second), (width, 1, 1)]
        else:
            plan = [(filters, 3, stride), (filters, 3, 1)]
        self.convs = [
            ConvNorm(f, k, s, options, relu=True, name=f"conv{i}") for i, (f, k, s) in enumerate(plan, start=1)
        ]
        self.shortcut = ConvNorm(width, 1, stride, options, relu=False, name="shortcut") if project else None

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        residual = self.shortcut(inputs, training=training) if self.shortcut else inputs
        outputs = inputs
        for layer in self.convs[:-1]:
            outputs = layer(outputs, training=training)
        return self.convs[-1](outputs, training=training, residual=residual)


class ResNet(Composite):
    """Backbone whose first ``options.freeze`` stages (stem, stage2, …, stage5) are frozen.

    Attributes:
        recompute: in training, keep only the outputs of the blocks, and compute the blocks again for their gradient.
    """

    recompute = False

    def __init__(self, options: config.Backbone, name: str = "backbone") -> None:
        super().__init__(name=name)
        depths, bottleneck = DEPTHS[options.name]
        self.stem = ConvNorm(64, 7, 2, options, relu=True, name="stem")
        self.stages = [self._stage(i, depth, bottleneck, options) for i, depth in enumerate(depths)]
        for layer in itertools.chain.from_iterable(self.parts[: options.freeze]):
            layer.trainable = False

    @property
    def parts(self) -> list[list[keras.layers.Layer]]:
        """The layers of the stem and of each stage."""
        return [[self.stem], *self.stages]

    @staticmethod
    def _stage(index: int, depth: int, bottleneck: bool, options: config.Backbone) -> list[Block]:
        blocks = []
        for i in range(depth):
            stride = 2 if i == 0 and index > 0 else 1
            project = i == 0 and (index > 0 or bottleneck)
            name = f"stage{index + 2}_block{i + 1}"
            blocks.append(Block(64 * 2**index, stride, options, bottleneck=bottleneck, project=project, name=name))
        return blocks

    def call(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Images ``[B, H, W, 3]`` to ``[C2, C3, C4, C5]``, strides 4, 8, 16, 32."""
        outputs = self.stem(images, training=training)
        # Zero padding equals padding with minus infinity here: the input is the output of a ReLU.
        outputs = tf.nn.max_pool2d(tf.pad(outputs, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
        features = []
        for stage in self.stages:
            for block in stage:
                run = functools.partial(block.__call__, training=training)
                outputs = tf.recompute_grad(run)(outputs) if self.recompute and training else run(outputs)
            features.append(outputs)
        return features
