"""Group norm with ReLU against NumPy in float64 and against PyTorch's stored results, for both implementations."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from group_norm_oracle import case, oracle

from frcnn import ops
from frcnn.errors import UserError
from frcnn.ops import compiled

kernels = pytest.mark.parametrize("kernel", ["reference", "compiled"])

# torch.nn.functional.group_norm (torch 2.14.1, float64) of torch_case() with 2 groups and epsilon 1e-3, then relu, and
# the gradients of sum(outputs * upstream).
TORCH_OUTPUTS = [0.57014911, 0, 1.8164247, 0.58347777, 0.23098547, 1.5543368, 0.24940621, 0.51658145]
TORCH_GRADIENT = [-0.21657438, 0.34157055, -0.48814808, -0.26459301, -2.2979793, 2.1729832, 0.8068656, -0.054124509]
TORCH_GAMMA = [0.40198844, 1.3861535, -0.055662243, -0.48406962]
TORCH_BETA = [-0.045827114, -1.5143835, 0.24219568, 0.015132787]


def torch_case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inputs ``[1, 1, 2, 4]``, gamma, beta and upstream."""
    rng = np.random.default_rng(11)
    return rng.normal(size=(1, 1, 2, 4)), rng.normal(size=4), rng.normal(size=4), rng.normal(size=(1, 1, 2, 4))


def run(
    inputs: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    upstream: np.ndarray,
    groups: int,
    epsilon: float,
    relu: bool,
    kernel: ops.Kernel,
    dtype: str = "float32",
) -> list[np.ndarray]:
    """What :func:`oracle` computes, by the operation in a ``tf.function``."""
    x, g, b = tf.cast(inputs, dtype), tf.constant(gamma, tf.float32), tf.constant(beta, tf.float32)

    @tf.function
    def step() -> list[tf.Tensor]:
        outputs = ops.group_norm(x, g, b, groups=groups, epsilon=epsilon, relu=relu, kernel=kernel)
        assert outputs.shape == x.shape
        return [outputs, *tf.gradients(outputs, [x, g, b], tf.cast(upstream, dtype))]

    results = step()
    assert [result.dtype for result in results] == [x.dtype, x.dtype, tf.float32, tf.float32]
    return [tf.cast(result, tf.float64).numpy() for result in results]


@kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    # One vector, several, a remainder of single channels, more than one chunk of pixels per image, one pixel.
    [((2, 5, 6, 64), 32), ((1, 3, 3, 32), 32), ((3, 4, 7, 44), 11), ((2, 70, 50, 32), 8), ((1, 9, 8, 512), 32),
     ((2, 1, 1, 8), 2)],
)  # fmt: skip
def test_outputs_and_gradients_match_the_oracle(kernel: str, relu: bool, shape: tuple[int, ...], groups: int) -> None:
    expected = oracle(*case(shape), groups, 1e-3, relu)
    for found, wanted in zip(run(*case(shape), groups, 1e-3, relu, kernel), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@kernels
def test_pytorchs_results(kernel: str) -> None:
    expected = (TORCH_OUTPUTS, TORCH_GRADIENT, TORCH_GAMMA, TORCH_BETA)
    for results in (oracle(*torch_case(), 2, 1e-3, True), run(*torch_case(), 2, 1e-3, True, kernel)):
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_once(dtype: str) -> None:
    inputs, gamma, beta, upstream = case((2, 40, 30, 64))
    rounded = [tf.cast(tf.cast(values, dtype), tf.float64).numpy() for values in (inputs, upstream)]
    expected = oracle(rounded[0], gamma, beta, rounded[1], 32, 1e-5, True)
    found = run(inputs, gamma, beta, upstream, 32, 1e-5, True, "compiled", dtype)
    step = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1.1 * step, atol=2e-4 * np.abs(wanted).max())


def test_large_means_do_not_lose_the_variance() -> None:
    inputs, gamma, beta, upstream = case((1, 64, 64, 32), mean=2000.0)
    inputs = inputs.astype(np.float32)
    expected = oracle(inputs.astype(np.float64), gamma, beta, upstream, 32, 1e-5, False)
    found = run(inputs, gamma, beta, upstream, 32, 1e-5, False, "compiled")
    np.testing.assert_allclose(found[0], expected[0], atol=2e-3)


def test_results_do_not_depend_on_the_call_or_on_the_other_images() -> None:
    inputs, gamma, beta, upstream = case((3, 50, 40, 64))
    first, again = (run(inputs, gamma, beta, upstream, 32, 1e-5, True, "compiled") for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    alone = run(inputs[1:2], gamma, beta, upstream[1:2], 32, 1e-5, True, "compiled")
    for one, other in zip(first[:2], alone[:2], strict=True):
        np.testing.assert_array_equal(one[1], other[0])


@pytest.mark.parametrize(
    ("shape", "gamma", "groups"), [((1, 2, 2, 8), 8, 3), ((1, 2, 2, 8), 4, 2), ((1, 0, 2, 8), 8, 2)]
)
def test_wrong_shapes_are_errors(shape: tuple[int, ...], gamma: int, groups: int) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="group_norm: inputs"):
        ops.group_norm(
            tf.zeros(shape), tf.ones([gamma]), tf.zeros([gamma]), groups=groups, epsilon=1e-5, relu=False,
            kernel="compiled",
        )  # fmt: skip


@pytest.mark.parametrize("kernel", ["auto", "compiled", "reference"])
@pytest.mark.parametrize("available", [True, False])
def test_a_gpu_takes_the_kernel_if_it_is_available(
    monkeypatch: pytest.MonkeyPatch, kernel: ops.Kernel, available: bool
) -> None:
    active = compiled.active_kernels()
    if not available:
        active = compiled.ActiveKernels(None, reason="no compiler")
    monkeypatch.setattr(compiled, "active_kernels", lambda: active)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: ["GPU:0"])

    @tf.function
    def step(inputs: tf.Tensor) -> list[tf.Tensor]:
        outputs = ops.group_norm(inputs, tf.ones([8]), tf.zeros([8]), groups=2, epsilon=1e-5, relu=True, kernel=kernel)
        return tf.gradients(outputs, inputs)

    if kernel == "compiled" and not available:
        with pytest.raises(UserError, match="no compiler"):
            step.get_concrete_function(tf.TensorSpec([1, 2, 2, 8]))
        return
    graph = step.get_concrete_function(tf.TensorSpec([1, 2, 2, 8])).graph
    own = {operation.type for operation in graph.get_operations() if operation.type.startswith("Frcnn")}
    assert own == ({"FrcnnGroupNorm", "FrcnnGroupNormGrad"} if available and kernel != "reference" else set())
