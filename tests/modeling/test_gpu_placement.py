"""Nothing large travels from a GPU to its host in a training step or in inference, and everything has a GPU kernel.

The functions are traced at full size and not run; TensorFlow's kernel registry says where their tensors would be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tensorflow as tf

from frcnn.config import load_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from gpu_placement import Placement, analyze, trace_inference, trace_training_step

pytestmark = pytest.mark.skipif(
    not tf.test.is_built_with_cuda(), reason="this build of TensorFlow does not register GPU kernels"
)

LARGEST_COPY = 4096  # bytes
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Everything that adds operations to a step, at once.
ALL_OPTIONS = (
    "backbone.norm=bn fpn.norm=gn optimizer.ema=0.999 optimizer.clip_norm=10 optimizer.accumulation=2 "
    "optimizer.nesterov=true"
)


def assert_stays_on_the_gpu(found: Placement) -> None:
    assert found.on_host == []
    assert [copy for copy in found.to_host if copy.size is None or copy.size > LARGEST_COPY] == []
    # Each copy waits for the GPU: the loop bounds of both matchings, whether values are finite, whether to update.
    assert len(found.to_host) <= 6


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("float32", ""),
        ("mixed_bfloat16", "backbone.norm=gn fpn.norm=gn"),
        ("mixed_float16", ""),
        ("mixed_float16", ALL_OPTIONS),
    ],
    ids=["float32", "bfloat16, group norm", "float16", "all options"],
)
def test_training_step(precision: str, options: str) -> None:
    overrides = f"backbone.name=resnet18 ops.kernel=compiled training.precision={precision} {options}"
    found = analyze(
        trace_training_step(load_config(overrides=overrides.split()), num_classes=80, batch_size=2, slots=64)
    )
    assert found.operations > 1000
    assert_stays_on_the_gpu(found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inference(precision: str) -> None:
    overrides = f"backbone.name=resnet18 ops.kernel=compiled training.precision={precision}"
    found = analyze(trace_inference(load_config(overrides=overrides.split()), num_classes=80, batch_size=2))
    assert found.operations > 500
    assert_stays_on_the_gpu(found)


def test_integer_arithmetic_and_missing_kernels_are_recognized() -> None:
    @tf.function(input_signature=[tf.TensorSpec([2, 1000]), tf.TensorSpec([3], tf.string)])
    def function(values: tf.Tensor, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        indices = tf.math.top_k(values, 600).indices
        in_a_loop = tf.while_loop(lambda total: tf.reduce_sum(total) < 9, lambda total: [total + indices], [indices])[0]
        return tf.gather(values, in_a_loop, batch_dims=1), tf.strings.length(texts)

    found = analyze(function.get_concrete_function())
    assert [kind for kind, _ in found.on_host] == ["StringLength"]
    top_k = next(copy for copy in found.to_host if copy.producer == "TopKV2")
    assert (top_k.dtype, top_k.shape, top_k.size) == ("int32", (2, 600), 4800)
    assert top_k.consumers == ("Enter",)  # the loop adds on the host
    assert any("GatherV2" in copy.consumers for copy in found.to_device)
