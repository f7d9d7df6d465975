"""Bias, residual and ReLU: the compiled operation on a CPU against NumPy and the definition, and which one is used."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from frcnn import ops
from frcnn.ops import compiled

DTYPES = ("float32", "bfloat16", "float16")


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Select the operation for GPUs, and run it on the CPU."""
    compiled.active_kernels()
    monkeypatch.setattr(ops, "uses_gpu", lambda: True)


def case(shape: tuple[int, ...], dtype: str) -> list[tf.Tensor]:
    """Inputs, bias, residual, upstream."""
    rng = np.random.default_rng(shape[-1])
    inputs, residual, upstream = (tf.cast(tf.constant(rng.normal(size=shape)), dtype) for _ in range(3))
    return [inputs, tf.constant(rng.normal(size=shape[-1:]), tf.float32), residual, upstream]


def run(tensors: list[tf.Tensor], residual: bool, relu: bool, kernel: ops.Kernel) -> list[tf.Tensor]:
    """Outputs and the gradients of inputs, bias and residual."""
    inputs, bias, other, upstream = tensors
    sources = [inputs, bias, *([other] if residual else [])]

    @tf.function
    def step() -> list[tf.Tensor]:
        outputs = ops.bias_relu(*sources, relu=relu, kernel=kernel)
        assert outputs.shape == inputs.shape
        return [outputs, *tf.gradients(outputs, sources, upstream)]

    return step()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 9, 7, 33), (3, 8)])
def test_values_and_gradients_match_numpy(shape: tuple[int, ...], dtype: str, residual: bool, relu: bool) -> None:
    tensors = case(shape, dtype)
    found = run(tensors, residual, relu, "compiled")
    assert [result.dtype for result in found] == [tensors[0].dtype, tensors[0].dtype, tf.float32, tensors[0].dtype][
        : 3 + residual
    ]
    inputs, bias, other, upstream = (tf.cast(tensor, tf.float32).numpy() for tensor in tensors)
    sums = inputs + bias + (other if residual else 0)
    outputs = tf.cast(np.maximum(sums, 0) if relu else sums, dtype).numpy()  # rounded once
    np.testing.assert_array_equal(found[0], outputs)
    behind = np.where(outputs > 0, upstream, 0) if relu else upstream
    for gradient in (found[1], *found[3:]):
        np.testing.assert_array_equal(tf.cast(gradient, tf.float32), behind)
    axes = tuple(range(len(shape) - 1))
    error = np.abs(found[2] - behind.astype(np.float64).sum(axis=axes))
    # TensorFlow's sum, which has the precision of the dtype on a CPU.
    assert (error <= (1e-5 if dtype == "float32" else 1e-2) * np.abs(behind).sum(axis=axes)).all()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("residual", [False, True])
def test_the_definition_gives_the_same_results(residual: bool) -> None:
    tensors = case((2, 5, 6, 20), "float32")
    for one, other in zip(
        run(tensors, residual, True, "compiled"), run(tensors, residual, True, "reference"), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("kernel", ["compiled", "reference"])
def test_nan_zero_and_nothing(kernel: ops.Kernel) -> None:
    inputs, bias = tf.constant([[np.nan, -1.0, 1.0, -np.inf, np.inf]]), tf.constant([0.0, 1.0, 0.0, 0.0, 0.0])
    outputs, gradient = run([inputs, bias, inputs, tf.ones([1, 5])], False, True, kernel)[:2]
    np.testing.assert_array_equal(outputs, [[np.nan, 0.0, 1.0, 0.0, np.inf]])
    np.testing.assert_array_equal(gradient, [[0.0, 0.0, 1.0, 0.0, 1.0]])
    empty = tf.zeros([0, 4, 4, 5])
    assert run([empty, bias, empty, empty], True, True, kernel)[0].shape == (0, 4, 4, 5)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    ("bias", "residual", "message"),
    [(7, (2, 8), "bias_relu: inputs"), (8, (1, 8), "bias_relu: residual")],
)
def test_wrong_shapes_are_errors(bias: int, residual: tuple[int, int], message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.bias_relu(tf.zeros([2, 8]), tf.zeros([bias]), tf.zeros(residual), kernel="compiled")
    with pytest.raises(ValueError, match="must be equal"):
        tf.function(
            lambda: ops.bias_relu(tf.zeros([2, 8]), tf.zeros([bias]), tf.zeros(residual), kernel="compiled")
        ).get_concrete_function()


def kinds(kernel: ops.Kernel, trained_bias: bool = True, dtype: str = "bfloat16") -> set[str]:
    """Types of the operations of a step, as TensorFlow prunes it."""
    bias = tf.Variable(tf.zeros([8]), trainable=trained_bias)

    @tf.function
    def step(inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = ops.bias_relu(inputs, tf.convert_to_tensor(bias), inputs, kernel=kernel)
        return tape.gradient(outputs, [inputs, *([bias] if trained_bias else [])])

    graph = step.get_concrete_function(tf.TensorSpec([1, 2, 2, 8], dtype)).graph
    pruned = tf.compat.v1.graph_util.extract_sub_graph(
        graph.as_graph_def(), [output.op.name for output in graph.outputs]
    )
    return {node.op for node in pruned.node}


def test_the_operation_is_for_gpus_and_not_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.active_kernels()
    fused = {"FrcnnBiasRelu", "FrcnnBiasReluGrad"}
    assert not any(kinds(kernel) & fused for kernel in ("auto", "compiled", "reference"))
    monkeypatch.setattr(ops, "uses_gpu", lambda: True)
    assert fused <= kinds("auto")
    assert fused <= kinds("compiled")
    assert not kinds("reference") & fused
    assert fused <= kinds("compiled", dtype="float32")
    assert not kinds("auto", dtype="float32") & fused  # TensorFlow would transpose around it


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_bias_that_is_not_trained_has_no_gradient() -> None:
    assert "BiasAddGrad" in kinds("compiled")
    assert "BiasAddGrad" not in kinds("compiled", trained_bias=False)
