"""The training step of frcnn in float64, to distinguish rounding from a difference in arithmetic.

The package computes in ``tf.float32``. Inside ``float64()`` that name means float64, so the same code runs; only batch
norm, whose fused kernel does not support float64, is replaced by plain operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from frcnn.modeling.faster_rcnn import FasterRCNN
from peers.ours import OurSide, padded

_zeros = tf.zeros


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Models built and run inside the block compute in float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with (
        mock.patch.object(tf, "float32", tf.float64),
        mock.patch.object(tf, "zeros", lambda shape, dtype=tf.float64: _zeros(shape, dtype)),
        mock.patch.object(tf.compat.v1.nn, "fused_batch_norm", _batch_norm),
    ):
        try:
            yield
        finally:
            keras.config.set_floatx(floatx)
            keras.config.set_dtype_policy(policy)


def _batch_norm(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, is_training: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    assert is_training
    mean, variance = tf.nn.moments(inputs, [0, 1, 2])
    return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, epsilon), mean, variance


class DoubleSide(OurSide):
    """The model with a peer's weights in float64, with the reference kernels: the compiled ones are float32."""

    def __init__(self, framework: str, tensors: Mapping[str, np.ndarray], changes: Mapping[str, Any]) -> None:
        with float64():
            super().__init__(framework, tensors, {**changes, "ops": {"kernel": "reference"}}, build=FasterRCNN)

    def replay(self, labels: list[np.ndarray], exact: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """Losses and gradients on the canvas, anchors and samples of the peer's float64 run ``exact``.

        Matches are those of our float32 run ``own``: other digits would break ties of anchors.
        """
        with float64():
            anchors = tf.constant(exact["anchor_boxes"], tf.float64)
            gt_boxes = tf.constant(padded(exact["gt_boxes"]), tf.float64)
            gt_labels = tf.constant(padded(labels), tf.int32)
            return self.step(
                tf.constant(exact["images"]),
                own["image_sizes"],
                anchors,
                gt_boxes,
                gt_labels,
                own["matches"],
                own["objects"],
                exact,
            )
