"""Loss terms against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from frcnn.modeling import losses


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_smooth_l1(beta: float) -> None:
    difference = np.array([0.0, beta / 2, -beta / 2, beta, -3.0], np.float32)
    expected = [0.0, beta / 8, beta / 8, beta / 2, 3.0 - beta / 2]
    np.testing.assert_allclose(losses.smooth_l1(tf.constant(difference), tf.zeros(5), beta), expected, rtol=1e-6)


def test_smooth_l1_without_beta_is_l1() -> None:
    assert losses.smooth_l1(tf.constant([-2.0, 0.5]), tf.zeros(2), 0.0).numpy().tolist() == [2.0, 0.5]


def test_binary_cross_entropy() -> None:
    logits = np.array([-30.0, -1.0, 0.0, 2.0])
    positive = np.array([False, True, True, False])
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.where(positive, np.log(probability), np.log1p(-probability))
    np.testing.assert_allclose(
        losses.binary_cross_entropy(tf.constant(logits), tf.constant(positive)), expected, rtol=1e-6, atol=1e-12
    )


def test_cross_entropy() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4))
    labels = np.array([0, 3, 1, 2, 0])
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), labels]
    np.testing.assert_allclose(losses.cross_entropy(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-6)


def test_masked_sum_ignores_masked_entries_including_nan() -> None:
    assert float(losses.masked_sum(tf.constant([1.0, np.nan, 4.0]), tf.constant([True, False, True]))) == 5.0
