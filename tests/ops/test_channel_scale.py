"""Several tensors times a factor per channel in TensorFlow, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from frcnn import ops

SHAPES = [(3, 3, 5, 7), (0, 4), (6,), (2, 40000), (20000, 3)]


@pytest.mark.parametrize("kernel", ["compiled", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_against_numpy(dtype: str, kernel: ops.Kernel) -> None:
    rng = np.random.default_rng(0)
    tensors = [tf.constant(rng.normal(size=shape), tf.float32) for shape in SHAPES]
    scales = [tf.constant(rng.normal(size=shape[-1]), tf.float32) for shape in SHAPES]
    upstream = [tf.cast(tf.constant(rng.normal(size=shape)), dtype) for shape in SHAPES]

    @tf.function
    def step() -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        outputs = ops.channel_scale(tensors, scales, tf.as_dtype(dtype), kernel)
        return outputs, tf.gradients(outputs, tensors, upstream)

    for i, (output, gradient) in enumerate(zip(*step(), strict=True)):
        assert output.dtype == dtype
        exact = tf.cast(tensors[i].numpy() * scales[i].numpy(), dtype)
        np.testing.assert_array_equal(tf.cast(output, tf.float32), tf.cast(exact, tf.float32))
        np.testing.assert_array_equal(gradient, tf.cast(upstream[i], tf.float32).numpy() * scales[i].numpy())


def test_a_scale_of_other_channels_is_refused() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected \[..., C\] and \[C\]"):
        ops.channel_scale([tf.ones([2, 3])], [tf.ones([2])], tf.float32, "compiled")
