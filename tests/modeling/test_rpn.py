"""Proposals and RPN losses against slow NumPy definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.config import RPN
from frcnn.modeling import rpn
from frcnn.modeling.matching import BACKGROUND, Sample

LEVELS = (48, 12)


def random_predictions(seed: int, batch: int = 2) -> tuple[rpn.Predictions, np.ndarray]:
    rng = np.random.default_rng(seed)
    total = sum(LEVELS)
    corner = rng.uniform(-5, 60, (total, 2))
    anchors = np.concatenate([corner, corner + rng.uniform(5, 40, (total, 2))], axis=1).astype(np.float32)
    logits = rng.normal(size=(batch, total)).astype(np.float32)
    deltas = rng.normal(0, 0.3, (batch, total, 4)).astype(np.float32)
    return rpn.Predictions(tf.constant(logits), tf.constant(deltas), LEVELS), anchors


def slow_proposals(
    logits, deltas, anchors, size, before: int, after: int, threshold: float, smallest: float
) -> list[list[float]]:
    """torchvision's filter_proposals, one image, one box at a time."""
    kept: list[tuple[float, list[float]]] = []
    start = 0
    for level_size in LEVELS:
        indices = range(start, start + level_size)
        start += level_size
        best = sorted(indices, key=lambda i: (-logits[i], i))[:before]
        level_kept: list[np.ndarray] = []
        for i in best:
            x1, y1, x2, y2 = anchors[i].astype(np.float64)
            width, height = x2 - x1, y2 - y1
            x, y = x1 + width / 2 + deltas[i, 0] * width, y1 + height / 2 + deltas[i, 1] * height
            width, height = width * np.exp(deltas[i, 2]), height * np.exp(deltas[i, 3])
            box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            box = box.clip(0, [size[1], size[0]] * 2)
            if min(box[2] - box[0], box[3] - box[1]) < smallest:
                continue
            if all(slow_iou(box, other) <= threshold for other in level_kept):
                level_kept.append(box)
                kept.append((logits[i], box.tolist()))
    return [box for _, box in sorted(kept, key=lambda entry: -entry[0])][:after]


@pytest.mark.parametrize("training", [True, False])
def test_proposals_equal_torchvisions_algorithm(training: bool) -> None:
    predictions, anchors = random_predictions(0)
    options = RPN(pre_nms_train=20, post_nms_train=15, pre_nms_test=10, post_nms_test=9, nms_iou=0.5, min_box_size=2.0)
    before, after = (20, 15) if training else (10, 9)
    sizes = np.array([[50, 60], [64, 40]], np.int32)
    proposals = rpn.propose(
        predictions, tf.constant(anchors), tf.constant(sizes), options, "reference", training=training
    )
    assert proposals.boxes.shape == (2, after, 4)
    for row in range(2):
        expected = slow_proposals(
            predictions.logits[row].numpy(),
            predictions.deltas[row].numpy(),
            anchors,
            sizes[row],
            before,
            after,
            0.5,
            2.0,
        )
        count = int(proposals.valid[row].numpy().sum())
        assert count == len(expected)
        np.testing.assert_allclose(proposals.boxes[row, :count], expected, rtol=1e-4, atol=1e-3)
        assert not proposals.boxes[row, count:].numpy().any()


def test_proposals_do_not_carry_gradients() -> None:
    predictions, anchors = random_predictions(1)
    with tf.GradientTape() as tape:
        tape.watch([predictions.logits, predictions.deltas])
        proposals = rpn.propose(
            predictions, tf.constant(anchors), tf.constant([[50, 60]] * 2), RPN(), "reference", training=True
        )
        total = tf.reduce_sum(proposals.boxes)
    assert tape.gradient(total, [predictions.logits, predictions.deltas]) == [None, None]


@pytest.mark.parametrize("normalizer", ["sampled", "constant"])
def test_losses_by_hand(normalizer: str) -> None:
    predictions, anchors = random_predictions(2)
    logits, deltas = predictions.logits.numpy(), predictions.deltas.numpy()
    gt = np.array([[[10, 10, 30, 30], [0, 0, 0, 0]], [[5, 5, 25, 45], [20, 20, 50, 30]]], np.float32)
    matches = np.full((2, sum(LEVELS)), BACKGROUND, np.int32)
    matches[0, 3], matches[1, 7], matches[1, 50] = 0, 1, 0
    indices = np.array([[3, 5, 6, 8], [7, 50, 0, 0]], np.int32)
    sampled = Sample(
        tf.constant(indices),
        positive=tf.constant([[True, False, False, False], [True, True, False, False]]),
        valid=tf.constant([[True] * 4, [True, True, True, False]]),
    )
    options = RPN(samples=4, normalizer=normalizer)
    sampled_outputs = (
        tf.constant(np.take_along_axis(logits, indices, 1)),
        tf.constant(np.take_along_axis(deltas, indices[..., None], 1)),
    )
    got = rpn.rpn_losses(
        *sampled_outputs, tf.constant(anchors), tf.constant(gt), tf.constant(matches), sampled, options
    )

    divisor = 7 if normalizer == "sampled" else 8
    objectness = box = 0.0
    for row, column, target in [(0, 3, gt[0, 0]), (1, 7, gt[1, 1]), (1, 50, gt[1, 0])]:
        objectness += np.log1p(np.exp(-logits[row, column]))
        a = anchors[column].astype(np.float64)
        sides, target_sides = a[2:] - a[:2], target[2:] - target[:2]
        shift = ((target[:2] + target[2:]) / 2 - (a[:2] + a[2:]) / 2) / sides
        distance = np.abs(np.concatenate([shift, np.log(target_sides / sides)]) - deltas[row, column])
        box += np.where(distance < 1 / 9, distance**2 * 4.5, distance - 1 / 18).sum()
    objectness += sum(np.log1p(np.exp(logits[row, column])) for row, column in [(0, 5), (0, 6), (0, 8), (1, 0)])
    assert float(got["rpn_objectness"]) == pytest.approx(objectness / divisor, rel=1e-5)
    assert float(got["rpn_box"]) == pytest.approx(box / divisor, rel=1e-5)


def test_predictions_are_in_the_order_of_the_anchors() -> None:
    head = rpn.RPNHead(RPN(), channels=4, anchors_per_cell=3)
    pyramid = [tf.random.stateless_normal([1, 2, 3, 4], [0, 1]), tf.random.stateless_normal([1, 1, 2, 4], [2, 3])]
    predictions = head(pyramid)
    assert predictions.level_sizes == (18, 6)
    hidden = tf.nn.relu(head.convs[0](pyramid[0]))
    objectness, deltas = head.objectness(hidden).numpy(), head.deltas(hidden).numpy()
    ratio = 1
    row = (1 * 3 + 2) * 3 + ratio
    assert predictions.logits[0, row] == objectness[0, 1, 2, ratio]
    np.testing.assert_array_equal(predictions.deltas[0, row], deltas[0, 1, 2, 4 * ratio : 4 * ratio + 4])


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_sampled_anchors_have_the_values_and_gradients_of_a_dense_run(convs: int) -> None:
    head = rpn.RPNHead(RPN(convs=convs), channels=4, anchors_per_cell=3)
    pyramid = [tf.random.stateless_normal([2, *size, 4], [convs, size[0]]) for size in [(5, 7), (3, 4), (1, 2)]]
    head(pyramid)
    for layer in head.convs:  # large biases: they would show if they leaked in from beyond the border
        layer.kernel.assign(tf.random.stateless_normal(layer.kernel.shape, [1, convs], stddev=0.3))
        layer.bias.assign([0.5, -0.5, 1.0, 2.0])
    every_cell = tf.constant(
        [np.random.default_rng(row).permutation(3 * (35 + 12 + 2))[:120] for row in range(2)], tf.int32
    )
    slopes = tf.random.stateless_normal([2, 120, 5], [7, 8])

    def run(dense: bool) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            if dense:
                predictions = head(pyramid)
                outputs = [
                    tf.gather(values, every_cell, batch_dims=1) for values in (predictions.logits, predictions.deltas)
                ]
            else:
                outputs = list(head.at(pyramid, every_cell))
            loss = tf.reduce_sum(outputs[0] * slopes[..., 0]) + tf.reduce_sum(outputs[1] * slopes[..., 1:])
        return outputs, tape.gradient(loss, [*pyramid, *head.trainable_variables])

    expected, got = run(dense=True), run(dense=False)
    for theirs, ours in zip([*expected[0], *expected[1]], [*got[0], *got[1]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
