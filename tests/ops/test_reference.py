from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from frcnn.ops import reference

STRIDES = (4, 8, 16, 32)


def test_level_starts():
    # torchvision's 4 + log2(s/224) + 1e-6 reaches k slightly early; Detectron2's 1e-8 is below float32's resolution.
    for rule, share in (("torchvision", 2**-1e-6), ("detectron2", 1.0)):
        starts = reference.level_starts(STRIDES, rule)
        np.testing.assert_allclose(starts, [112 * share, 224 * share, 448 * share], rtol=5e-7)
        assert all(start <= exact for start, exact in zip(starts, (112, 224, 448), strict=True)), (
            "an exact 112 belongs to P3"
        )
    assert (
        reference.level_starts(STRIDES, "torchvision")[0]
        < 112 * (1 - 4e-7)
        < reference.level_starts(STRIDES, "detectron2")[0]
    )


def test_round_down_to_float32():
    assert reference.round_down_to_float32(0.3) < 0.3 < math.nextafter(0.3, 1) <= float(np.float32(0.3))
    assert reference.round_down_to_float32(0.7) == float(np.float32(0.7)) < 0.7
    assert reference.round_down_to_float32(0.5) == 0.5


def test_graph_is_deterministic():
    # Detects sums that the graph optimizer reorders, and scatters by several threads.
    levels = [tf.random.stateless_normal([1, 256 // stride, 256 // stride, 64], (1, stride)) for stride in STRIDES]
    corners = tf.random.stateless_uniform([256, 2], (3, 4), 0, 200)
    boxes = tf.concat([corners, corners + tf.random.stateless_uniform([256, 2], (5, 6), 5, 120)], axis=1)

    pooling = reference.Pooling(STRIDES, output_size=7, sampling_ratio=2, aligned=False, level_rule="torchvision")

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(levels)
            pooled = reference.roi_align(levels, boxes, tf.zeros([256], tf.int32), pooling)
        return [pooled, *tape.gradient(pooled, levels, tf.math.sin(pooled))]

    first = step()
    for _ in range(3):
        for once, again in zip(first, step(), strict=True):
            np.testing.assert_array_equal(once, again)
