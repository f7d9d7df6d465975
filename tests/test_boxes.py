"""Box arithmetic against tables computed by hand and against NumPy."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from frcnn import boxes


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 100, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 60, (count, 2))], axis=1).astype(np.float32)


def test_area_by_hand() -> None:
    table = tf.constant([[0, 0, 2, 3], [1, 1, 1, 5], [5, 5, 3, 9], [-1, -1, 1, 1]], tf.float32)
    assert boxes.area(table).numpy().tolist() == [6, 0, 0, 4]


def test_iou_by_hand() -> None:
    first = tf.constant([[0, 0, 10, 10]], tf.float32)
    others = tf.constant([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [0, 0, 0, 0]], tf.float32)
    np.testing.assert_allclose(boxes.iou(first, others)[0], [1, 1 / 3, 0, 4 / 100, 0], rtol=1e-6)


def test_iou_of_a_batch_equals_that_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 12).reshape(2, 6, 4), random_boxes(rng, 8).reshape(2, 4, 4)
    batched = boxes.iou(tf.constant(first), tf.constant(second)).numpy()
    for row in range(2):
        for i in range(6):
            for j in range(4):
                a, b = first[row, i].astype(float), second[row, j].astype(float)
                width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
                height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
                union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
                assert batched[row, i, j] == np.float32(width * height / union) or math.isclose(
                    batched[row, i, j], width * height / union, rel_tol=1e-5
                )


def test_clip_uses_each_images_own_height_and_width() -> None:
    wide = [[-5, -5, 500, 500]]
    clipped = boxes.clip(tf.constant([wide, wide], tf.float32), tf.constant([[20, 30], [40, 10]]))
    assert clipped.numpy().tolist() == [[[0, 0, 30, 20]], [[0, 0, 10, 40]]]


def test_encode_by_hand() -> None:
    anchor = tf.constant([[0, 0, 10, 20]], tf.float32)
    target = tf.constant([[5, 10, 25, 20]], tf.float32)  # centre (15, 15), 20 x 10, against (5, 10), 10 x 20
    expected = np.array([[10 * 1.0, 10 * 0.25, 5 * math.log(2), 5 * math.log(0.5)]])
    np.testing.assert_allclose(boxes.encode(target, anchor, (10.0, 10.0, 5.0, 5.0)), expected, rtol=1e-6)


def test_padding_encodes_to_zero() -> None:
    real, padding = tf.constant([[0, 0, 4, 4]], tf.float32), tf.zeros([1, 4])
    assert boxes.encode(padding, real).numpy().tolist() == [[0, 0, 0, 0]]
    assert boxes.encode(real, padding).numpy().tolist() == [[0, 0, 0, 0]]


def test_decode_limits_growth() -> None:
    grown = boxes.decode(tf.constant([[0.0, 0.0, 50.0, 0.0]]), tf.constant([[0.0, 0.0, 8.0, 8.0]])).numpy()[0]
    assert math.isclose(grown[2] - grown[0], 8 * 1000 / 16, rel_tol=1e-5)


coordinates = st.floats(0, 1000, width=32)
sides = st.floats(0.125, 500, width=32)


@given(*(hnp.arrays(np.float32, (3, 2), elements=elements) for elements in (coordinates, sides) * 2))
def test_decode_inverts_encode(
    corner: np.ndarray, side: np.ndarray, anchor_corner: np.ndarray, anchor_side: np.ndarray
) -> None:
    side = np.minimum(side, anchor_side * 60)  # within the limit of growth
    target = np.concatenate([corner, corner + side], axis=1)
    anchor = np.concatenate([anchor_corner, anchor_corner + anchor_side], axis=1)
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = boxes.encode(tf.constant(target), tf.constant(anchor), weights)
    decoded = boxes.decode(deltas, tf.constant(anchor), weights)
    np.testing.assert_allclose(decoded, target, atol=0.02, rtol=1e-4)
