"""Cascade head against a slow NumPy version, box by box."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.config import RoIHead
from frcnn.modeling.cascade import CascadeHead
from frcnn.modeling.matching import Sample
from frcnn.modeling.roi_head import RoISample
from frcnn.modeling.rpn import Proposals

CLASSES, SIZE = 2, (60, 80)  # height and width of the image
OPTIONS = RoIHead(cascade=(0.3, 0.7), foreground_iou=0.3, pooled_size=1, fc_layers=1, fc_channels=6)
TRUTH = np.array([[10, 10, 40, 40], [45, 20, 75, 50], [0, 0, 0, 0]], np.float32)
LABELS = np.array([2, 1, 0], np.int32)
# Near the first object, near the second, near none, and a padded one.
BOXES = np.array([[6, 8, 37, 44], [40, 24, 79, 50], [50, 0, 80, 12], [0, 0, 0, 0]], np.float32)
VALID = np.array([True, True, True, False])


class Outputs(NamedTuple):
    boxes: np.ndarray
    scores: np.ndarray
    deltas: np.ndarray


def pool(boxes: tf.Tensor) -> tf.Tensor:
    """Features ``[N, 1, 1, 4]``: the boxes in units of the image."""
    return tf.reshape(boxes, [-1, 1, 1, 4]) / 80


@pytest.fixture(scope="module")
def head() -> CascadeHead:
    made = CascadeHead(OPTIONS, CLASSES, channels=4)
    for stage in range(2):
        made(tf.zeros([1, 1, 1, 4]), stage=stage)
    rng = np.random.default_rng(3)
    for variable in made.variables:
        variable.assign(rng.normal(0, 0.7, variable.shape))
    return made


def slow_stages(head: CascadeHead) -> list[Outputs]:
    """Boxes, probabilities and deltas of every stage, from the definition."""
    boxes, found = BOXES.astype(float), []
    for number, stage in enumerate(head.stages, start=1):
        dense, logits, deltas = ([v.numpy() for v in layer.variables] for layer in
                                 (stage.dense[0], stage.class_logits, stage.box_deltas))  # fmt: skip
        hidden = np.maximum(boxes / 80 @ dense[0] + dense[1], 0)
        exponents = np.exp(hidden @ logits[0] + logits[1])
        found.append(Outputs(boxes, exponents / exponents.sum(1, keepdims=True), hidden @ deltas[0] + deltas[1]))
        refined = []
        for (x1, y1, x2, y2), delta in zip(boxes, found[-1].deltas, strict=True):
            dx, dy, dw, dh = delta / np.array([10, 10, 5, 5]) / number
            x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
            width, height = (x2 - x1) * np.exp(dw), (y2 - y1) * np.exp(dh)
            corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            refined.append(np.clip(corners, 0, [SIZE[1], SIZE[0]] * 2))
        boxes = np.array(refined)
    return found


def slow_losses(stages: list[Outputs]) -> tuple[float, float]:
    """Sums of class and box loss over the stages; each stage labels its own boxes."""
    class_loss = box_loss = 0.0
    for number, (stage, threshold) in enumerate(zip(stages, OPTIONS.cascade, strict=True), start=1):
        for box, scores, deltas in [
            values for values, valid in zip(zip(*stage, strict=True), VALID, strict=True) if valid
        ]:
            overlaps = [slow_iou(box, truth) for truth in TRUTH[:2]]
            best = int(np.argmax(overlaps))
            label = LABELS[best] if overlaps[best] >= threshold else 0
            class_loss -= np.log(scores[label]) / 3
            if label:
                sides, target_sides = box[2:] - box[:2], TRUTH[best, 2:] - TRUTH[best, :2]
                shift = (TRUTH[best, :2] + TRUTH[best, 2:] - box[:2] - box[2:]) / 2 / sides
                target = number * np.concatenate([10 * shift, 5 * np.log(target_sides / sides)])
                distance = np.abs(target - deltas)
                box_loss += np.where(distance < 1 / 9, distance**2 * 4.5, distance - 1 / 18).sum() / 3
    return class_loss, box_loss


def test_losses_of_all_stages_on_boxes_that_each_stage_refines_and_labels_anew(head: CascadeHead) -> None:
    stages = slow_stages(head)
    labels = [[max(slow_iou(box, truth) for truth in TRUTH[:2]) >= threshold for box in stage.boxes[:3]]
              for stage, threshold in zip(stages, OPTIONS.cascade, strict=True)]  # fmt: skip
    assert labels[0] != labels[1]  # the example has a box whose label changes
    sampled = Sample(tf.zeros([1, 4], tf.int64), tf.constant([labels[0] + [False]]), tf.constant(VALID[None]))
    first = RoISample(
        tf.constant(BOXES[None]), tf.constant([[2, 1, 0, 0]], tf.int64), tf.constant(TRUTH[None, [0, 1, 0, 0]]), sampled
    )
    truth = (tf.constant(TRUTH[None]), tf.constant(LABELS[None]), tf.constant(LABELS[None] > 0))
    found = head.losses(pool, first, tf.constant([SIZE]), *truth)
    expected = slow_losses(stages)
    assert float(found["roi_class"]) == pytest.approx(expected[0], rel=1e-5)
    assert float(found["roi_box"]) == pytest.approx(expected[1], rel=1e-5)


def test_mean_scores_and_the_boxes_of_the_last_stage(head: CascadeHead) -> None:
    stages = slow_stages(head)
    proposals = Proposals(tf.constant(BOXES[None]), tf.constant(VALID[None]))
    scores, deltas, last = head.predict(pool, proposals, tf.constant([SIZE]))
    np.testing.assert_allclose(scores[:3], np.mean([stage.scores for stage in stages], axis=0)[:3], rtol=1e-5)
    np.testing.assert_allclose(deltas[:3, 0], stages[-1].deltas[:3], rtol=1e-4)
    np.testing.assert_allclose(last.boxes[0, :3], stages[-1].boxes[:3], rtol=1e-5)
    assert last.valid.numpy().tolist() == [VALID.tolist()]


def test_shared_features_get_the_mean_gradient_of_the_stages_and_each_head_its_own(head: CascadeHead) -> None:
    features = tf.constant(np.random.default_rng(0).normal(size=(5, 1, 1, 4)), tf.float32)
    gradients = {}
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits, _ = head(features, stage=1, training=training)
            total = tf.reduce_sum(tf.square(logits))
        gradients[training] = tape.gradient(total, [features, head.stages[1].class_logits.kernel])
    np.testing.assert_allclose(gradients[True][0], gradients[False][0] / 2, rtol=1e-6)
    np.testing.assert_array_equal(gradients[True][1], gradients[False][1])
