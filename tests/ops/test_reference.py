from __future__ import annotations

import math

import numpy as np
import ops_oracle
import pytest
import tensorflow as tf

from frcnn.ops import reference

STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("sampling_ratio", [0, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_and_its_gradient_are_the_slow_definitions(pyramid, awkward_boxes, rng, sampling_ratio, aligned):
    boxes, images = awkward_boxes
    rule = {"output_size": 4, "sampling_ratio": sampling_ratio, "aligned": aligned, "level_rule": "torchvision"}
    expected, expected_gradient = ops_oracle.roi_align(pyramid, boxes, images, strides=STRIDES, **rule)
    levels = [tf.constant(level) for level in pyramid]
    upstream = rng.normal(size=expected.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(levels)
        pooled = reference.roi_align(levels, boxes, images, strides=STRIDES, **rule)
    np.testing.assert_allclose(pooled, expected, atol=2e-5)
    assert not np.any(tf.gather(pooled, [0, 1, 20, 21])), "boxes without meaning give zeros"
    for gradient, expected_level in zip(tape.gradient(pooled, levels, upstream), expected_gradient(upstream), strict=True):
        np.testing.assert_allclose(gradient, expected_level, atol=2e-5)


def test_levels_start_at_the_powers_of_two_less_the_guard():
    # torchvision: 4 + log2(s/224) + 1e-6 reaches k a millionth early; Detectron2's 1e-8 is lost in float32's rounding.
    for starts, share in ((reference.level_starts(STRIDES, "torchvision"), 2**-1e-6), (reference.level_starts(STRIDES, "detectron2"), 1.0)):
        np.testing.assert_allclose(starts, [112 * share, 224 * share, 448 * share], rtol=5e-7)
        assert all(start <= exact for start, exact in zip(starts, (112, 224, 448), strict=True)), "an exact 112 belongs to P3"
    assert reference.level_starts(STRIDES, "torchvision")[0] < 112 * (1 - 4e-7) < reference.level_starts(STRIDES, "detectron2")[0]


def test_static_shapes_survive_a_function_with_and_without_boxes():
    levels = [tf.zeros([1, 64 // stride, 64 // stride, 3]) for stride in STRIDES]

    @tf.function
    def pool(boxes, images):
        return reference.roi_align(
            levels, boxes, images, strides=STRIDES, output_size=7, sampling_ratio=0, aligned=True, level_rule="detectron2"
        )

    assert pool(tf.zeros([0, 4]), tf.zeros([0], tf.int32)).shape == [0, 7, 7, 3]
    assert pool.get_concrete_function(tf.TensorSpec([9, 4]), tf.TensorSpec([9], tf.int32)).output_shapes == [9, 7, 7, 3]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_is_the_slow_definition(rng, threshold):
    boxes = rng.integers(0, 12, size=(3, 60, 4)).astype(np.float32)
    boxes[..., 2:] += boxes[..., :2]
    scores = rng.choice(np.float32([0.1, 0.3, 0.5, 0.9, np.nan, -np.inf]), size=(3, 60))
    groups = rng.integers(0, 3, size=(3, 60)).astype(np.int32)
    indices, counts = reference.nms(boxes, scores, groups, iou_threshold=threshold, max_outputs=25)
    for b in range(3):
        expected = ops_oracle.nms(boxes[b], scores[b], groups[b], iou_threshold=threshold, max_outputs=25)
        assert counts[b] == len(expected)
        np.testing.assert_array_equal(indices[b], expected + [-1] * (25 - len(expected)))


def test_an_overlap_of_exactly_the_threshold():
    # IoU 3/10 as float32 is a little above 0.3, so torchvision, which compares with a double, drops; 1/2 is exact, and stays.
    boxes = np.float32([[[0, 0, 10, 1], [0, 0, 3, 1], [0, 2, 2, 3], [0, 2, 1, 3]]])
    indices, _ = reference.nms(boxes[:, :2], np.float32([[2, 1]]), np.zeros([1, 2], np.int32), iou_threshold=0.3, max_outputs=4)
    assert indices.numpy().tolist() == [[0, -1, -1, -1]]
    indices, _ = reference.nms(boxes[:, 2:], np.float32([[2, 1]]), np.zeros([1, 2], np.int32), iou_threshold=0.5, max_outputs=4)
    assert indices.numpy().tolist() == [[0, 1, -1, -1]]


def test_nms_of_nothing():
    indices, counts = reference.nms(tf.zeros([2, 0, 4]), tf.zeros([2, 0]), tf.zeros([2, 0], tf.int32), iou_threshold=0.5, max_outputs=3)
    assert indices.numpy().tolist() == [[-1] * 3] * 2
    assert counts.numpy().tolist() == [0, 0]


def test_round_down():
    assert reference.round_down_to_float32(0.3) < 0.3 < math.nextafter(0.3, 1) <= float(np.float32(0.3))
    assert reference.round_down_to_float32(0.7) == float(np.float32(0.7)) < 0.7
    assert reference.round_down_to_float32(0.5) == 0.5
