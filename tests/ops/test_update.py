"""Updates of all variables and the global norm in TensorFlow, against NumPy."""

from __future__ import annotations

import many_tensor_checks
import numpy as np
import pytest
import tensorflow as tf
from many_tensor_checks import RULES, WRITTEN, UpdateCase

from frcnn import ops

KERNELS = ("compiled", "reference")


def run(case: UpdateCase, kernel: ops.Kernel, in_graph: bool = True) -> list[list[tf.Variable]]:
    """Weights, first and second states after the update."""
    weights, first, second = (list(map(tf.Variable, arrays)) for arrays in (case.weights, case.first, case.second))
    written = WRITTEN[case.rule]
    variables = ops.Variables(
        weights,
        [] if case.rule == "average" else list(map(tf.constant, case.gradients)),
        first if 1 in written else [],
        second if 2 in written else [],
        case.rate_factors.tolist(),
        case.decays.tolist(),
    )
    beta_1, beta_2 = many_tensor_checks.BETAS
    rule = ops.Rule(case.rule, many_tensor_checks.MOMENTUM, beta_1, beta_2)

    def update() -> None:
        ops.update(rule, variables, ops.Scalars(*map(tf.constant, case.scalars)), kernel)

    (tf.function(update) if in_graph else update)()
    return [weights, first, second]


def check(case: UpdateCase, found: list[list[tf.Variable]]) -> None:
    for i in range(len(case.weights)):
        for values, expected in zip(found, many_tensor_checks.updated(case, i), strict=True):
            np.testing.assert_allclose(values[i].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rule", RULES)
def test_against_numpy(rule: str, kernel: ops.Kernel) -> None:
    case = many_tensor_checks.update_case(rule, [3, 0, 70, 40000])
    check(case, run(case, kernel))


def test_in_eager_code() -> None:
    case = many_tensor_checks.update_case("momentum", [5, 9])
    check(case, run(case, "compiled", in_graph=False))


@pytest.mark.parametrize("rule", ["sgd", "adamw", "average"])
def test_tensors_that_were_read_before_keep_their_values(rule: str) -> None:
    """The memory of a variable is shared with tensors that were read from it."""
    state, other, third, ones = *(tf.Variable(tf.ones([50])) for _ in range(3)), tf.ones([50])
    variables = {
        "sgd": ops.Variables([state], [ones], rate_factors=[1.0], decays=[0.0]),
        "adamw": ops.Variables([state], [ones], [other], [third], [1.0], [0.0]),
        "average": ops.Variables([tf.Variable(tf.zeros([50]))], first=[state]),
    }[rule]

    @tf.function
    def step() -> tuple[tf.Tensor, tf.Tensor]:
        before = state.read_value()
        ops.update(ops.Rule(rule, beta_1=0.9, beta_2=0.9), variables, ops.Scalars(tf.constant(0.5)), "compiled")
        return before, state.read_value()

    before, after = step()
    assert set(before.numpy()) == {1.0}
    assert (after < 1.0).numpy().all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_global_norm(kernel: ops.Kernel) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ([], [3], [100, 333], [0, 4])]
    expected = np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in arrays))
    norm = tf.function(lambda: ops.global_norm(list(map(tf.constant, arrays)), kernel))()
    np.testing.assert_allclose(norm, expected, rtol=1e-5)
    arrays[1][0] = np.inf
    assert not np.isfinite(ops.global_norm(list(map(tf.constant, arrays)), kernel))


def test_other_shapes_are_refused() -> None:
    variables = ops.Variables([tf.Variable([1.0, 2.0])], [tf.ones([3])], rate_factors=[1.0], decays=[0.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="variable 0"):
        ops.update(ops.Rule("sgd"), variables, ops.Scalars(tf.constant(0.5)), "compiled")
    with pytest.raises(tf.errors.InvalidArgumentError, match="what the rule needs"):
        ops.update(ops.Rule("momentum", 0.9), variables, ops.Scalars(tf.constant(0.5)), "compiled")
