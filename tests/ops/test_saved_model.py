"""A SavedModel that contains the operations, traced as on a machine with a GPU and loaded in a process without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from frcnn import ops
from frcnn.ops import compiled

STRIDES = (4, 8, 16, 32)
REPOSITORY = Path(__file__).parents[2]

LOADER = """
import sys
import numpy as np, tensorflow as tf
{}
model, inputs, outputs = sys.argv[1:]
with np.load(inputs) as arrays:
    levels, boxes, images = [tf.constant(arrays[f"level{{k}}"]) for k in range(4)], arrays["boxes"], arrays["images"]
model = tf.saved_model.load(model)
with tf.GradientTape() as tape:
    tape.watch(levels)
    pooled, indices, counts = model(levels, boxes, images)
    total = tf.reduce_sum(pooled * pooled)
gradients = {{f"gradient{{k}}": g for k, g in enumerate(tape.gradient(total, levels))}}
np.savez(outputs, pooled=pooled, indices=indices, counts=counts, **gradients)
"""


class Model(tf.Module):
    """The operations, used as in a detector."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    @tf.function(
        input_signature=[
            [tf.TensorSpec([None, None, None, 5])] * 4,
            tf.TensorSpec([None, 4]),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def __call__(self, levels, boxes, images):
        pooled = ops.roi_align(
            levels,
            boxes,
            images,
            strides=STRIDES,
            output_size=4,
            sampling_ratio=2,
            aligned=True,
            level_rule="torchvision",
            kernel=self.kernel,
        )
        pooled = ops.bias_relu(pooled, tf.linspace(-0.5, 0.5, 5), pooled, kernel=self.kernel)
        scores = tf.reduce_mean(pooled, axis=[1, 2, 3])[None]
        groups = tf.zeros_like(scores, tf.int32)
        return pooled, *ops.nms(boxes[None], scores, groups, iou_threshold=0.5, max_outputs=9, kernel=self.kernel)


def load(folder: Path, first: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        LOADER.format(first),
        *(str(folder / name) for name in ("model", "inputs.npz", "outputs.npz")),
    ]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=200
    )


@pytest.fixture
def saved(request, tmp_path, pyramid, degenerate_boxes, monkeypatch):
    """The folder with the model and its inputs, and the expected outputs."""
    compiled.active_kernels()
    monkeypatch.setattr(ops, "uses_gpu", lambda: True)
    boxes, images = degenerate_boxes
    model, levels = Model(request.param), [tf.constant(level) for level in pyramid]
    tf.saved_model.save(
        model, str(tmp_path / "model"), options=tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    )
    np.savez(
        tmp_path / "inputs.npz", boxes=boxes, images=images, **{f"level{k}": level for k, level in enumerate(pyramid)}
    )
    with tf.GradientTape() as tape:
        tape.watch(levels)
        pooled, indices, counts = model(levels, boxes, images)
        total = tf.reduce_sum(pooled * pooled)
    gradients = {f"gradient{k}": gradient for k, gradient in enumerate(tape.gradient(total, levels))}
    return tmp_path, {"pooled": pooled, "indices": indices, "counts": counts, **gradients}


@pytest.mark.parametrize(("saved", "first"), [("compiled", "import frcnn.ops"), ("reference", "")], indirect=["saved"])
def test_outputs_after_loading(saved, first):
    folder, expected = saved
    done = load(folder, first)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "outputs.npz") as found:
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("saved", ["compiled"], indirect=True)
def test_loading_without_frcnn_ops_names_the_missing_operation(saved):
    done = load(saved[0], "")
    assert done.returncode == 1
    assert "Op type not registered 'Frcnn" in done.stderr
