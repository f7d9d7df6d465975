"""One trace per combination of shapes, and none of TensorFlow's warnings about it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from frcnn.per_shape import PerShape


class Pair(NamedTuple):
    first: tf.Tensor
    second: tf.Tensor


def test_each_shape_is_traced_once_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    traced = []

    def add(pair: Pair, number: tf.Tensor) -> Pair:
        traced.append(tuple(pair.first.shape))
        return Pair(pair.first + number, pair.second * number)

    function = PerShape(add)
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 1, 5]
    for size in sizes:
        found = function(Pair(np.ones([size], np.float32), tf.ones([size, 2])), tf.constant(2.0))
        assert isinstance(found, Pair)
        np.testing.assert_array_equal(found.first, np.full([size], 3.0))
    function(Pair(tf.ones([1], tf.float64), tf.ones([1], tf.float64)), tf.constant(2.0, tf.float64))
    assert traced == [(size,) for size in sizes[:8]] + [(1,)]
    assert function.traces == 9
    assert "retracing" not in caplog.text
