"""The contract of RoIAlign, for the reference and the compiled kernels."""

from __future__ import annotations

import functools

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import ops_oracle
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frcnn import ops

STRIDES = (4, 8, 16, 32)
kernels = pytest.mark.parametrize("kernel", ["reference", "compiled"])
few = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def pool(pyramid, boxes, images, **changes):
    options = {"output_size": 4, "sampling_ratio": 2, "aligned": False, "level_rule": "torchvision", "strides": STRIDES}
    return ops.roi_align([tf.convert_to_tensor(level) for level in pyramid], boxes, images, **{**options, **changes})


@kernels
@pytest.mark.parametrize("level_rule", ["torchvision", "detectron2"])
@pytest.mark.parametrize("sampling_ratio", [0, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_and_gradient_match_the_oracle(
    pyramid, degenerate_boxes, rng, kernel, sampling_ratio, aligned, level_rule
):
    boxes, images = degenerate_boxes
    rule = {
        "strides": STRIDES,
        "output_size": 4,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "level_rule": level_rule,
    }
    expected, expected_gradient = ops_oracle.roi_align(pyramid, boxes, images, **rule)
    levels = [tf.convert_to_tensor(level) for level in pyramid]
    upstream = rng.normal(size=expected.shape).astype(np.float32)

    @tf.function
    def step():
        pooled = ops.roi_align(levels, boxes, images, kernel=kernel, **rule)
        return pooled, tf.gradients(pooled, levels, upstream)

    pooled, gradients = step()
    np.testing.assert_allclose(pooled, expected, atol=2e-5)
    assert not np.any(tf.gather(pooled, [0, 1, 20, 21])), "invalid boxes give zeros"
    for gradient, expected_level in zip(gradients, expected_gradient(upstream), strict=True):
        np.testing.assert_allclose(gradient, expected_level, atol=2e-5)


@kernels
def test_roi_align_worked_by_hand(kernel):
    # A 4 x 4 map of y + 10 x; the box (1, 1, 3, 3) in feature pixels, one bin, four samples at 1.5 and 2.5 per axis.
    level = (np.arange(4)[:, None] + 10.0 * np.arange(4)[None, :]).astype(np.float32)[None, :, :, None]
    boxes = np.float32([[4, 4, 12, 12]])
    rule = {"strides": (4,), "output_size": 1, "kernel": kernel}
    assert pool([level], boxes, [0], **rule).numpy().item() == 22.0
    assert pool([level], boxes, [0], aligned=True, **rule).numpy().item() == pytest.approx(
        16.5
    )  # shifted by half a pixel
    # Two bins per side: the samples of the upper left bin are at 1.25 and 1.75.
    assert pool([level], boxes, [0], strides=(4,), output_size=2, kernel=kernel).numpy()[0, 0, 0, 0] == 16.5


@kernels
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 130, 147])
def test_any_number_of_channels(degenerate_boxes, rng, kernel, channels):
    boxes, images = degenerate_boxes
    pyramid = [rng.normal(size=(2, 64 // stride, 48 // stride, channels)).astype(np.float32) for stride in STRIDES]
    rule = {"strides": STRIDES, "output_size": 2, "sampling_ratio": 2, "aligned": True, "level_rule": "torchvision"}
    expected, _ = ops_oracle.roi_align(pyramid, boxes / 4, images, **rule)
    np.testing.assert_allclose(
        ops.roi_align(pyramid_tensors(pyramid), boxes / 4, images, kernel=kernel, **rule), expected, atol=2e-5
    )


def pyramid_tensors(pyramid):
    return [tf.convert_to_tensor(level) for level in pyramid]


@kernels
@pytest.mark.parametrize(("dtype", "tolerance"), [(ml_dtypes.bfloat16, 2**-8), (np.float16, 2**-11)])
def test_16_bit_dtypes_round_once(pyramid, degenerate_boxes, rng, kernel, dtype, tolerance):
    boxes, images = degenerate_boxes
    small = [
        np.concatenate([level] * 4, axis=-1).astype(dtype) for level in pyramid
    ]  # 20 channels: a vector and a remainder
    expected = pool([level.astype(np.float32) for level in small], boxes, images, kernel="reference").numpy()
    levels = pyramid_tensors(small)
    upstream = rng.normal(size=expected.shape).astype(dtype)
    with tf.GradientTape() as tape:
        tape.watch(levels)
        pooled = ops.roi_align(
            levels,
            boxes,
            images,
            strides=STRIDES,
            output_size=4,
            sampling_ratio=2,
            aligned=False,
            level_rule="torchvision",
            kernel=kernel,
        )
    assert pooled.dtype == levels[0].dtype
    np.testing.assert_allclose(pooled.numpy().astype(np.float32), expected, rtol=tolerance, atol=1e-5)
    _, expected_gradient = ops_oracle.roi_align(
        small, boxes, images, strides=STRIDES, output_size=4, sampling_ratio=2, aligned=False, level_rule="torchvision"
    )
    for gradient, exact in zip(tape.gradient(pooled, levels, upstream), expected_gradient(upstream), strict=True):
        assert gradient.dtype == pooled.dtype
        np.testing.assert_allclose(gradient.numpy().astype(np.float64), exact, rtol=tolerance * 1.01, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_conversion_of_all_16_bit_values(dtype):
    # A RoIAlign that copies: one pixel, one sample at its center, one channel per value.
    values = np.arange(65536, dtype=np.uint16).view(dtype)
    if dtype is not np.float16:  # TensorFlow's threads flush subnormal float32 to zero
        exponent = values.view(np.uint16) & 0x7F80
        values = values[(exponent != 0) | (values.view(np.uint16) & 0x7FFF == 0)]
    copied = pool(
        [values[None, None, None]], np.float32([[0, 0, 1, 1]]), [0],
        strides=(1,), output_size=1, sampling_ratio=1, aligned=True, kernel="compiled",
    )  # fmt: skip
    np.testing.assert_array_equal(copied.numpy().reshape(-1).astype(np.float32), values.astype(np.float32))


@kernels
def test_roi_align_of_empty_inputs(pyramid, kernel):
    assert pool(pyramid, np.zeros([0, 4], np.float32), np.zeros([0], np.int32), kernel=kernel).shape == [0, 4, 4, 5]
    no_images = [level[:0] for level in pyramid]
    assert not pool(no_images, np.float32([[0, 0, 50, 50]]), [0], kernel=kernel).numpy().any()


@kernels
def test_static_shapes(kernel):
    @tf.function
    def step(levels, boxes, images):
        pooled = ops.roi_align(
            levels,
            boxes,
            images,
            strides=STRIDES,
            output_size=7,
            sampling_ratio=0,
            aligned=True,
            level_rule="detectron2",
            kernel=kernel,
        )
        return pooled, *tf.gradients(pooled, levels)

    def signature(batch, count):
        levels = [tf.TensorSpec([batch, 64 // stride, 64 // stride, 3]) for stride in STRIDES]
        return levels, tf.TensorSpec([count, 4]), tf.TensorSpec([count], tf.int32)

    pooled, *gradients = step.get_concrete_function(*signature(2, 9)).output_shapes
    assert pooled == [9, 7, 7, 3]
    assert [gradient.as_list() for gradient in gradients] == [[2, 64 // stride, 64 // stride, 3] for stride in STRIDES]
    assert step.get_concrete_function(*signature(None, None)).output_shapes[0].as_list() == [None, 7, 7, 3]


@kernels
def test_numeric_gradient(rng, kernel):
    boxes, images = np.float32([[3, 5, 20, 14], [2, 2, 3, 3], [-10, -10, 30, 30]]), np.zeros(3, np.int32)
    level = tf.constant(rng.normal(size=(1, 5, 6, 2)).astype(np.float32))
    pooled = tf.function(functools.partial(pool_one, boxes=boxes, images=images, kernel=kernel))
    theory, numeric = tf.test.compute_gradient(pooled, [level], delta=0.25)
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-5)
    assert np.abs(theory[0]).max() > 0.1


def pool_one(level, boxes, images, kernel):
    return pool([level], boxes, images, strides=(4,), output_size=2, kernel=kernel)


boxes_inside = hnp.arrays(np.float32, (6, 4), elements=st.integers(0, 90).map(float)).map(
    lambda a: np.concatenate([np.minimum(a[:, :2], a[:, 2:]), np.maximum(a[:, :2], a[:, 2:]) + 1], axis=1)
)
no_images = np.zeros(6, np.int32)


@kernels
@few
@given(boxes=boxes_inside)
def test_roi_align_is_translation_invariant(boxes, kernel):
    rng = np.random.default_rng(1)
    level = np.zeros((1, 40, 40, 3), np.float32)
    level[:, 4:32, 4:32] = rng.normal(size=(1, 28, 28, 3))
    moved = np.roll(level, (2, 3), axis=(1, 2))
    expected = pool([level], boxes + 16, no_images, strides=(4,), kernel=kernel)
    np.testing.assert_allclose(
        pool([moved], boxes + np.float32([28, 24, 28, 24]), no_images, strides=(4,), kernel=kernel), expected, atol=1e-5
    )


@kernels
@few
@given(boxes=boxes_inside, order=st.permutations(range(6)), factor=st.floats(-3, 3, width=32))
def test_roi_align_is_linear_and_independent_of_the_order_of_boxes(pyramid, boxes, order, factor, kernel):
    pooled = functools.partial(pool, kernel=kernel)
    other = [level[:, ::-1] for level in pyramid]
    mixed = [level + factor * flipped for level, flipped in zip(pyramid, other, strict=True)]
    plain = pooled(pyramid, boxes, no_images).numpy()
    np.testing.assert_allclose(
        pooled(mixed, boxes, no_images), plain + factor * pooled(other, boxes, no_images).numpy(), atol=1e-4
    )
    np.testing.assert_array_equal(pooled(pyramid, boxes[order], no_images), plain[order])


def test_compiled_gradient_is_deterministic(pyramid, degenerate_boxes):
    boxes, images = (np.concatenate([part] * 20) for part in degenerate_boxes)
    levels = pyramid_tensors(pyramid)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(levels)
            pooled = ops.roi_align(
                levels,
                boxes,
                images,
                strides=STRIDES,
                output_size=7,
                sampling_ratio=2,
                aligned=False,
                level_rule="torchvision",
                kernel="compiled",
            )
        return tape.gradient(pooled, levels, tf.math.sin(pooled))

    for once, again in zip(gradient(), gradient(), strict=True):
        np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"boxes": np.zeros([2, 5], np.float32)}, "expected \\[N, 4\\] and \\[N\\]"),
        ({"images": np.zeros([3], np.int32)}, "expected \\[N, 4\\] and \\[N\\]"),
        (
            {"pyramid": [np.zeros([2, 8, 8, 5], np.float32), np.zeros([2, 4, 4, 6], np.float32)]},
            "level 1 of the pyramid",
        ),
        (
            {"pyramid": [np.zeros([2, 8, 0, 5], np.float32), np.zeros([2, 4, 4, 5], np.float32)]},
            "level 0 of the pyramid",
        ),
    ],
)
def test_shape_errors_contain_the_shape(changes, problem):
    call = {
        "pyramid": [np.zeros([2, 8, 8, 5], np.float32), np.zeros([2, 4, 4, 5], np.float32)],
        "boxes": np.zeros([2, 4], np.float32),
        "images": np.zeros([2], np.int32),
        **changes,
    }
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=problem):
        pool(call["pyramid"], call["boxes"], call["images"], strides=(4, 8), kernel="compiled")
