"""The contract of both operations, for the reference and the compiled kernels."""

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


def suppress(boxes, scores, groups, **options):
    """Kept indices of each image; checks the padding."""
    indices, counts = tf.function(functools.partial(ops.nms, **options))(boxes, scores, groups)
    for row, count in zip(indices.numpy(), counts.numpy(), strict=True):
        assert (row[:count] >= 0).all()
        assert (row[count:] == -1).all()
    return [row[:count].tolist() for row, count in zip(indices.numpy(), counts.numpy(), strict=True)]


# RoIAlign


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


# NMS


@kernels
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
def test_nms_matches_the_oracle(rng, kernel, threshold):
    boxes = rng.integers(0, 12, size=(3, 60, 4)).astype(np.float32)
    boxes[..., 2:] += boxes[..., :2]
    boxes[0, :3] = [[np.nan, 0, 9, 9], [-np.inf, 0, np.inf, 9], [9, 9, 2, 2]]
    scores = rng.choice(np.float32([0.0, -0.0, -2, 0.1, 0.3, 0.5, 0.9, np.inf, np.nan, -np.inf]), size=(3, 60))
    groups = rng.choice(np.int32([-7, 0, 2**31 - 1]), size=(3, 60))
    kept = suppress(boxes, scores, groups, iou_threshold=threshold, max_outputs=25, kernel=kernel)
    with np.errstate(all="ignore"):
        assert kept == [
            ops_oracle.nms(*image, iou_threshold=threshold, max_outputs=25)
            for image in zip(boxes, scores, groups, strict=True)
        ]


@kernels
def test_nms_at_exactly_the_threshold(kernel):
    # IoU 3/10 as float32 is slightly above 0.3 as a double, so torchvision suppresses the box; 1/2 is exact: the box is
    # kept.
    boxes, scores, groups = np.float32([[[0, 0, 10, 1], [0, 0, 3, 1]]]), np.float32([[2, 1]]), np.int32([[0, 0]])
    assert suppress(boxes, scores, groups, iou_threshold=0.3, max_outputs=4, kernel=kernel) == [[0]]
    boxes = np.float32([[[0, 2, 2, 3], [0, 2, 1, 3]]])
    assert suppress(boxes, scores, groups, iou_threshold=0.5, max_outputs=4, kernel=kernel) == [[0, 1]]


@kernels
@pytest.mark.parametrize(("count", "max_outputs"), [(2500, 2500), (2500, 700)])
def test_nms_of_many_boxes(rng, kernel, count, max_outputs):
    # Enough kept boxes for the parallel comparison on the CPU; scores with many ties.
    corners = rng.uniform(0, 400, size=(1, count, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, size=(1, count, 2)).astype(np.float32)], axis=-1)
    scores = rng.integers(0, 500, size=(1, count)).astype(np.float32)
    groups = rng.integers(0, 2, size=(1, count)).astype(np.int32)
    reference = suppress(boxes, scores, groups, iou_threshold=0.6, max_outputs=max_outputs, kernel="reference")
    assert suppress(boxes, scores, groups, iou_threshold=0.6, max_outputs=max_outputs, kernel=kernel) == reference
    assert len(reference[0]) > 500


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", ["scattered", "wide", "stacked"])
def test_nms_compares_all_overlapping_boxes(rng, shape, threshold):
    # The CPU kernel compares only boxes with close centers: pairs with equal centers, and pairs as far apart as the
    # threshold allows.
    width = {"scattered": 9, "wide": 400, "stacked": 1}[shape] * np.exp(rng.uniform(-1, 1, 300))
    left = rng.uniform(-500, 500, 300) if shape != "stacked" else np.full(300, 1e6)
    first = np.stack([left, rng.uniform(0, 3, 300), left + width, rng.uniform(3, 6, 300)], axis=1)
    second = first.copy()
    second[:150, 2] = first[:150, 0] + width[:150] * max(threshold, 0.01) * rng.choice(
        [0.99, 1.0, 1.01], 150
    )  # contained
    second[150:, [0, 2]] += (width[150:] * (1 - threshold) / (1 + threshold) * rng.choice([0.99, 1.0, 1.01], 150))[
        :, None
    ]  # moved
    boxes = np.concatenate([first, second]).astype(np.float32)[None]
    boxes[0, :4] = [[np.nan, 0, 5, 5], [-3e38, 0, 3e38, 5], [-np.inf, 0, np.inf, 5], [7, 0, 2, 5]]
    scores, groups = rng.uniform(size=(1, 600)).astype(np.float32), rng.integers(0, 2, size=(1, 600)).astype(np.int32)
    kept, expected = (
        suppress(boxes, scores, groups, iou_threshold=threshold, max_outputs=600, kernel=kernel)
        for kernel in ("compiled", "reference")
    )
    assert kept == expected


@kernels
def test_nms_of_empty_inputs(kernel):
    empty = np.zeros([2, 0, 4], np.float32), np.zeros([2, 0], np.float32), np.zeros([2, 0], np.int32)
    assert suppress(*empty, iou_threshold=0.5, max_outputs=3, kernel=kernel) == [[], []]
    padding = np.zeros([2, 5, 4], np.float32), np.full([2, 5], -np.inf, np.float32), np.zeros([2, 5], np.int32)
    assert suppress(*padding, iou_threshold=0.5, max_outputs=3, kernel=kernel) == [[], []]


crowds = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float32, (1, n, 4), elements=st.integers(0, 9).map(float)),
        hnp.arrays(np.float32, (1, n), elements=st.sampled_from(np.float32([0.1, 0.2, 0.3, 0.9]).tolist())),
        hnp.arrays(np.int32, (1, n), elements=st.integers(0, 1)),
    )
)


@kernels
@few
@given(crowd=crowds, threshold=st.sampled_from([0.2, 0.5, 0.8]))
def test_nms_properties(crowd, threshold, kernel):
    boxes, scores, groups = crowd
    boxes = np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:] + 1], axis=-1)
    options = {"iou_threshold": threshold, "max_outputs": 40, "kernel": kernel}
    [kept] = suppress(boxes, scores, groups, **options)

    def suppresses(better, worse):
        return (
            groups[0, better] == groups[0, worse]
            and float(ops_oracle.iou(boxes[0, better], boxes[0, worse])) > threshold
        )

    rank = [(-scores[0, i], i) for i in range(boxes.shape[1])]
    assert kept == sorted(kept, key=rank.__getitem__), "best first, ties by index"
    assert not any(suppresses(a, b) for a in kept for b in kept if a != b), "no kept pair overlaps"
    for i in set(range(boxes.shape[1])) - set(kept):
        assert any(suppresses(k, i) and rank[k] < rank[i] for k in kept), "a suppressed box overlaps a better kept one"
    [again] = suppress(boxes[:, kept], scores[:, kept], groups[:, kept], **options)
    assert again == list(range(len(kept))), "nms of its output is the identity"
