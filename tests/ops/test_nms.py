"""The contract of NMS, for the reference and the compiled kernels."""

from __future__ import annotations

import functools

import hypothesis.extra.numpy as hnp
import numpy as np
import ops_oracle
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn import ops

kernels = pytest.mark.parametrize("kernel", ["reference", "compiled"])


@functools.cache
def traced(**options):
    """One graph for all numbers of boxes."""
    return tf.function(functools.partial(ops.nms, **options), reduce_retracing=True)


def suppress(boxes, scores, groups, **options):
    """Kept indices of each image; checks the padding."""
    indices, counts = traced(**options)(*map(tf.convert_to_tensor, (boxes, scores, groups)))
    for row, count in zip(indices.numpy(), counts.numpy(), strict=True):
        assert (row[:count] >= 0).all()
        assert (row[count:] == -1).all()
    return [row[:count].tolist() for row, count in zip(indices.numpy(), counts.numpy(), strict=True)]


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
@settings(max_examples=20, deadline=None, derandomize=True)
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
