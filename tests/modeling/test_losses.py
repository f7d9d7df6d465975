"""Loss terms against NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.modeling import losses


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_smooth_l1(beta: float) -> None:
    difference = np.array([0.0, beta / 2, -beta / 2, beta, -3.0], np.float32)
    expected = [0.0, beta / 8, beta / 8, beta / 2, 3.0 - beta / 2]
    np.testing.assert_allclose(losses.smooth_l1(tf.constant(difference), tf.zeros(5), beta), expected, rtol=1e-6)


def test_smooth_l1_without_beta_is_l1() -> None:
    assert losses.smooth_l1(tf.constant([-2.0, 0.5]), tf.zeros(2), 0.0).numpy().tolist() == [2.0, 0.5]


def slow_giou(a: np.ndarray, b: np.ndarray) -> float:
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = slow_iou(a, b)
    intersection = iou * (_area(a) + _area(b)) / (1 + iou)
    return 1 - iou + (hull - (_area(a) + _area(b) - intersection)) / hull


def slow_ciou(a: np.ndarray, b: np.ndarray, weight: float | None = None) -> float:
    """``weight`` of the aspect ratio's term is a constant in the gradient: it can be given."""
    shift = np.hypot((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
    diagonal = np.hypot(max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    angles = [np.arctan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    aspect = (2 / np.pi * (angles[0] - angles[1])) ** 2
    iou = slow_iou(a, b)
    if weight is None:
        weight = aspect / (1 - iou + aspect) if aspect else 0.0
    return 1 - iou + shift**2 / diagonal**2 + weight * aspect


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


# The same boxes; one inside the other; overlapping; touching; far apart.
PREDICTED = np.array([[0, 0, 4, 2], [1, 1, 3, 2], [2, 1, 9, 5], [4, 0, 6, 3], [20, 30, 25, 32]], np.float32)
WANTED = np.array([[0, 0, 4, 2], [0, 0, 4, 4], [3, 0, 7, 4.5], [0, 0, 4, 3], [1, 2, 3, 9]], np.float32)


@pytest.mark.parametrize(("loss", "slow"), [(losses.giou, slow_giou), (losses.ciou, slow_ciou)])
def test_iou_losses(loss: Callable[..., tf.Tensor], slow: Callable[..., float]) -> None:
    expected = [slow(a.astype(float), b.astype(float)) for a, b in zip(PREDICTED, WANTED, strict=True)]
    np.testing.assert_allclose(loss(tf.constant(PREDICTED), tf.constant(WANTED)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.giou, losses.ciou])
def test_gradients_of_iou_losses_by_finite_differences(loss: Callable[..., tf.Tensor]) -> None:
    for a, b in zip(PREDICTED[[1, 2, 4]].astype(float), WANTED[[1, 2, 4]].astype(float), strict=True):
        slow: Callable[[np.ndarray], float]
        if loss is losses.giou:
            slow = functools.partial(slow_giou, b=b)
        else:
            aspect_off, aspect_on = slow_ciou(a, b, 0.0), slow_ciou(a, b, 1.0)
            weight = (slow_ciou(a, b) - aspect_off) / (aspect_on - aspect_off)
            slow = functools.partial(slow_ciou, b=b, weight=weight)
        steps = 1e-6 * np.eye(4)
        expected = [(slow(a + step) - slow(a - step)) / 2e-6 for step in steps]
        boxes = tf.constant(a[None], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(boxes)
            value = loss(boxes, tf.constant(b[None], tf.float32))
        np.testing.assert_allclose(tape.gradient(value, boxes)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.giou, losses.ciou])
def test_boxes_that_minimize_an_iou_loss_reach_their_targets(loss: Callable[..., tf.Tensor]) -> None:
    """From boxes that overlap the target, lie inside it, do not touch it, and contain it."""
    targets = np.array([[10, 10, 50, 30], [60, 20, 80, 90], [20, 60, 50, 90], [40, 40, 90, 60]], np.float32)
    boxes = np.array([[30, 15, 70, 45], [65, 40, 75, 60], [70, 10, 90, 20], [30, 10, 95, 90]], np.float32)

    @tf.function(autograph=False)
    def gradient(boxes: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(boxes)
            total = tf.reduce_sum(loss(boxes, tf.constant(targets)))
        return tape.gradient(total, boxes)

    steps = 600
    for step in range(steps):
        boxes = boxes - 200 * (1 - step / steps) * gradient(tf.constant(boxes)).numpy()
    assert min(slow_iou(box, target) for box, target in zip(boxes, targets, strict=True)) > 0.95


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
