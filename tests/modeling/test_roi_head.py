"""RoI assignment, losses and detections against slow NumPy definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.config import Inference, RoIHead
from frcnn.modeling import losses, roi_head
from frcnn.modeling.detections import detect
from frcnn.modeling.matching import Sample
from frcnn.modeling.rpn import Proposals


def slow_detections(
    logits, deltas, boxes, valid, size, original, options: RoIHead
) -> list[tuple[float, int, list[float]]]:
    """torchvision's postprocess_detections, one image, one box at a time."""
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    found = []
    for label in range(1, logits.shape[1]):
        kept: list[np.ndarray] = []
        for i in sorted(np.flatnonzero(valid), key=lambda i: -probabilities[i, label]):
            score = probabilities[i, label]
            width, height = boxes[i, 2:] - boxes[i, :2]
            x, y = (boxes[i, :2] + boxes[i, 2:]) / 2
            dx, dy, dw, dh = deltas[i, label - 1] / options.box_weights
            x, y, width, height = x + dx * width, y + dy * height, width * np.exp(dw), height * np.exp(dh)
            box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]).clip(
                0, [size[1], size[0]] * 2
            )
            if score <= options.score_threshold or min(box[2] - box[0], box[3] - box[1]) < options.min_box_size:
                continue
            if all(slow_iou(box, other) <= options.nms_iou for other in kept):
                kept.append(box)
                found.append((score, label, box))
    best = sorted(found, key=lambda entry: -entry[0])[: options.max_detections]
    scale = np.array([original[1] / size[1], original[0] / size[0]] * 2)
    return [(score, label, (box * scale).tolist()) for score, label, box in best]


@pytest.mark.parametrize("max_detections", [5, 40])
def test_detections_equal_torchvisions_algorithm(max_detections: int) -> None:
    rng = np.random.default_rng(0)
    batch, number, classes = 2, 12, 3
    corner = rng.uniform(0, 60, (batch, number, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 40, (batch, number, 2))], axis=2).astype(np.float32)
    valid = rng.random((batch, number)) < 0.8
    logits = rng.normal(0, 1.5, (batch * number, classes + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (batch * number, classes, 4)).astype(np.float32)
    sizes, originals = np.array([[70, 90], [80, 64]]), np.array([[140, 181], [40, 32]])
    options = RoIHead(max_detections=max_detections, score_threshold=0.15)
    got = detect(
        tf.nn.softmax(logits), tf.constant(deltas), Proposals(tf.constant(boxes), tf.constant(valid)),
        tf.constant(sizes, tf.int32), options, Inference(), "reference",
    ).scaled(tf.constant(sizes, tf.int32), tf.constant(originals, tf.int32))  # fmt: skip
    for row in range(batch):
        rows = slice(row * number, (row + 1) * number)
        expected = slow_detections(
            logits[rows], deltas[rows], boxes[row].astype(float), valid[row], sizes[row], originals[row], options
        )
        count = int(got.counts[row])
        assert count == len(expected)
        assert got.labels[row, :count].numpy().tolist() == [label for _, label, _ in expected]
        np.testing.assert_allclose(got.scores[row, :count], [score for score, _, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(got.boxes[row, :count], [box for _, _, box in expected], rtol=1e-4, atol=1e-3)
        assert not got.scores[row, count:].numpy().any()


def test_losses_by_hand() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 3)).astype(np.float32)
    deltas = rng.normal(size=(4, 2, 4)).astype(np.float32)
    boxes = np.array([[[0, 0, 10, 10], [5, 5, 25, 15]], [[2, 2, 8, 20], [0, 0, 0, 0]]], np.float32)
    gt = np.array([[[1, 0, 12, 10], [0, 0, 0, 0]], [[2, 3, 9, 19], [0, 0, 0, 0]]], np.float32)
    labels = np.array([[2, 0], [1, 0]], np.int32)
    sampled = Sample(
        tf.zeros([2, 2], tf.int32), positive=tf.constant(labels > 0), valid=tf.constant([[True, True], [True, False]])
    )
    sample = roi_head.RoISample(tf.constant(boxes), tf.constant(labels), tf.constant(gt), sampled)
    got = roi_head.roi_losses(tf.constant(logits), tf.constant(deltas), sample, RoIHead())

    log_sum = np.log(np.exp(logits).sum(1))
    entropy = sum(log_sum[row] - logits[row, label] for row, label in [(0, 2), (1, 0), (2, 1)])
    box = 0.0
    for row, column, label in [(0, 0, 2), (1, 0, 1)]:
        a, target = boxes[row, column].astype(float), gt[row, column]
        sides, target_sides = a[2:] - a[:2], target[2:] - target[:2]
        shift = ((target[:2] + target[2:]) - (a[:2] + a[2:])) / 2 / sides
        wanted = np.concatenate([10 * shift, 5 * np.log(target_sides / sides)])
        distance = np.abs(wanted - deltas[2 * row + column, label - 1])
        box += np.where(distance < 1 / 9, distance**2 * 4.5, distance - 1 / 18).sum()
    assert float(got["roi_class"]) == pytest.approx(entropy / 3, rel=1e-5)
    assert float(got["roi_box"]) == pytest.approx(box / 3, rel=1e-5)


def test_ground_truth_boxes_are_added_to_the_proposals() -> None:
    proposals = Proposals(tf.constant([[[0, 0, 5, 5], [50, 50, 60, 60]]], tf.float32), tf.constant([[True, False]]))
    gt_boxes = tf.constant([[[20, 20, 40, 40], [0, 0, 100, 100]]], tf.float32)
    rois = roi_head.assign(
        proposals,
        gt_boxes,
        tf.constant([[7, 3]]),
        tf.constant([[True, False]]),
        RoIHead(samples=4, positive_fraction=0.5),
        tf.constant([[0, 0]]),
    )
    assert rois.labels.numpy()[0].tolist() == [7, 0, 0, 0]
    assert rois.boxes.numpy()[0, 0].tolist() == [20, 20, 40, 40]
    # Only the crowd region and the padded proposal are excluded: one background RoI remains.
    assert rois.sample.valid.numpy()[0].tolist() == [True, True, False, False]
    assert rois.boxes.numpy()[0, 1].tolist() == [0, 0, 5, 5]


@pytest.mark.parametrize(("kind", "weight"), [("giou", 10.0), ("ciou", 12.0)])
def test_iou_losses_are_those_of_decoded_boxes_and_finite_where_nothing_matches(kind: str, weight: float) -> None:
    boxes = np.array([[[0, 0, 10, 10], [5, 5, 25, 15], [0, 0, 0, 0]]], np.float32)
    gt = np.array([[[1, 0, 12, 10], [0, 0, 0, 0], [0, 0, 0, 0]]], np.float32)
    deltas = tf.constant(np.random.default_rng(1).normal(size=(3, 2, 4)), tf.float32)
    sampled = Sample(
        tf.zeros([1, 3], tf.int64),
        positive=tf.constant([[True, False, False]]),
        valid=tf.constant([[True, True, False]]),
    )
    sample = roi_head.RoISample(tf.constant(boxes), tf.constant([[2, 0, 0]]), tf.constant(gt), sampled)
    with tf.GradientTape() as tape:
        tape.watch(deltas)
        got = roi_head.roi_losses(tf.zeros([3, 3]), deltas, sample, RoIHead(box_loss=kind))["roi_box"]
    dx, dy, dw, dh = deltas[0, 1].numpy() / [10, 10, 5, 5]
    x, y, width, height = 5 + 10 * dx, 5 + 10 * dy, 10 * np.exp(dw), 10 * np.exp(dh)
    decoded = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    expected = {"giou": losses.giou, "ciou": losses.ciou}[kind](tf.constant(decoded, tf.float32), tf.constant(gt[0, 0]))
    assert float(got) == pytest.approx(weight * float(expected) / 2, rel=1e-5)
    gradient = tape.gradient(got, deltas).numpy()
    assert np.isfinite(gradient).all()
    assert np.flatnonzero(np.abs(gradient).max(axis=-1)).tolist() == [1]
