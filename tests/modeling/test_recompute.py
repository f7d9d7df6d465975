"""training.recompute: the same gradients, with the blocks computed twice."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from frcnn.config import load_config
from frcnn.errors import UserError
from frcnn.modeling.resnet import ResNet


@pytest.mark.parametrize("norm", ["gn", "frozen_bn"])
def test_same_gradients_and_twice_the_convolutions_of_blocks(norm: str) -> None:
    config = load_config(overrides=["backbone.name=resnet18", f"backbone.norm={norm}", "backbone.freeze=0"])
    keras.utils.set_random_seed(0)
    backbone = ResNet(config.backbone)
    images = tf.constant(np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32))
    backbone(images)  # creates the variables

    def gradients() -> tuple[list[np.ndarray], int]:
        @tf.function
        def of_loss() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                features = backbone(images, training=True)
                loss = tf.add_n([tf.reduce_sum(tf.square(each)) for each in features])
            return tape.gradient(loss, backbone.trainable_variables)

        concrete = of_loss.get_concrete_function()
        convolutions = sum(node.op == "Conv2D" for node in concrete.graph.as_graph_def().node)
        return [value.numpy() for value in concrete()], convolutions

    kept, once = gradients()
    backbone.recompute = True
    recomputed, twice = gradients()
    assert (once, twice) == (20, 20 + 19)  # the stem is computed once
    for first, second in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-4 * np.abs(first).max())


def test_is_refused_with_batch_norm_that_collects_statistics() -> None:
    with pytest.raises(UserError, match=r"training\.recompute computes blocks twice"):
        load_config(overrides=["backbone.norm=bn", "training.recompute=true"])
