"""Every implementation against torchvision's outputs, stored by tools/golden_ops.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from frcnn import ops

kernels = pytest.mark.parametrize("kernel", ["reference", "compiled"])


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "torchvision.npz") as contents:
        return dict(contents)


@kernels
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_and_its_gradient(golden, kernel, sampling_ratio, aligned):
    levels = [tf.constant(golden[f"p{k}"].astype(np.float32)) for k in range(2, 6)]
    weights = (np.arange(40 * 49) % 5 - 2).reshape(40, 7, 7, 1).astype(np.float32)

    @tf.function
    def step():
        pooled = ops.roi_align(
            levels, golden["boxes"], golden["box_image"], strides=(4, 8, 16, 32), output_size=7,
            sampling_ratio=sampling_ratio, aligned=aligned, level_rule="torchvision", kernel=kernel,
        )  # fmt: skip
        return pooled, tf.gradients(pooled, levels, weights)

    pooled, gradients = step()
    name = f"s{sampling_ratio}{'_aligned' if aligned else ''}"
    np.testing.assert_allclose(pooled, golden[f"{name}_pooled"], atol=1e-4)
    for k, gradient in zip(range(2, 6), gradients, strict=True):
        np.testing.assert_allclose(gradient, golden[f"{name}_p{k}"], atol=1e-4)


@kernels
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("grouped", [False, True])
def test_nms(golden, kernel, threshold, grouped):
    boxes, scores, groups = (golden[f"nms_{name}"][None] for name in ("boxes", "scores", "groups"))
    expected = golden[f"nms_{threshold}{'_grouped' if grouped else ''}"]
    options = {"iou_threshold": threshold, "max_outputs": 600, "kernel": kernel}
    indices, counts = tf.function(
        lambda: ops.nms(boxes, scores, groups if grouped else np.zeros_like(groups), **options)
    )()
    assert counts.numpy() == len(expected)
    np.testing.assert_array_equal(indices[0, : len(expected)], expected)
