"""SGD against PyTorch's definition in NumPy, and the averaged weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from frcnn.config import Config, load_config
from frcnn.training.optimizer import AveragedWeights, build_optimizer, l2_penalty


def options(*overrides: str) -> Config:
    return load_config(
        overrides=[
            "optimizer.warmup_steps=0",
            "optimizer.base_batch_size=16",
            "training.batch_size=16",
            "optimizer.learning_rate=0.1",
            *overrides,
        ]
    )


def descend(
    config: Config, start: np.ndarray, gradients: list[np.ndarray]
) -> tuple[keras.Variable, keras.optimizers.Optimizer]:
    """Steps on a loss that is linear but for the weight decay, so that its gradients are the given ones."""
    variable = keras.Variable(start, name="kernel")
    optimizer = build_optimizer(config, total_steps=100, variables=[variable])
    for gradient in gradients:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(variable * gradient) + l2_penalty([variable], config.optimizer)
        optimizer.apply(tape.gradient(loss, [variable]), [variable])
    return variable, optimizer


def test_momentum_and_weight_decay_are_pytorchs() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=3).astype(np.float32)
    gradients = [rng.normal(size=3).astype(np.float32) for _ in range(5)]
    config = options("optimizer.weight_decay=0.05", "optimizer.milestones=[]")
    weights, velocity = start.astype(np.float64), np.zeros(3)
    for gradient in gradients:  # torch.optim.SGD: decay goes into the gradient, the gradient into the momentum
        velocity = 0.9 * velocity + gradient + 0.05 * weights
        weights = weights - 0.1 * velocity
    np.testing.assert_allclose(descend(config, start, gradients)[0], weights, rtol=1e-5)


def test_clipping_bounds_the_global_norm() -> None:
    config = options(
        "optimizer.clip_norm=1.0", "optimizer.weight_decay=0", "optimizer.momentum=0", "optimizer.milestones=[]"
    )
    moved, _ = descend(config, np.zeros(2, np.float32), [np.array([30.0, 40.0], np.float32)])
    np.testing.assert_allclose(moved, [-0.06, -0.08], rtol=1e-5)


@pytest.mark.parametrize("overflow_at", [0, 1, 2, 3])
def test_float16_overflow_skips_a_batch_of_an_accumulated_update_and_nothing_else(overflow_at: int) -> None:
    """Two batches per update, moving averages, and a batch that overflows: the updates are those of the other batches,
    computed in NumPy, and the scale is halved once."""
    config = options(
        *("training.precision=mixed_float16", "optimizer.accumulation=2", "optimizer.ema=0.5", "optimizer.momentum=0"),
        *("optimizer.weight_decay=0", "optimizer.milestones=[]", "optimizer.base_batch_size=32"),
    )
    start = np.array([1.0, -2.0], np.float32)
    finite = [np.array(pair, np.float32) for pair in ([1, 2], [3, -2], [0.5, 0.25], [-1, 1])]
    variable = keras.Variable(start, name="kernel")
    optimizer = build_optimizer(config, total_steps=100, variables=[variable])

    @tf.function
    def step(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient * optimizer.dynamic_scale], [variable])

    initial = float(optimizer.dynamic_scale)
    averages = optimizer.inner_optimizer._model_variables_moving_average
    for number in range(5):
        if number == overflow_at:
            before = (variable.numpy().copy(), averages[0].numpy().copy())
            step(tf.constant([np.inf, 1.0]))
            np.testing.assert_array_equal((variable.numpy(), averages[0].numpy()), before)
            assert float(optimizer.dynamic_scale) == initial / 2
        if number == 4:
            break
        step(tf.constant(finite[number]))
    weights, average = start.astype(np.float64), None
    for pair in (finite[:2], finite[2:]):
        weights = weights - 0.1 * np.mean(pair, axis=0)
        average = weights if average is None else 0.5 * average + 0.5 * weights
    np.testing.assert_allclose(variable.numpy(), weights, rtol=1e-6)
    np.testing.assert_allclose(averages[0].numpy(), average, rtol=1e-6)


def test_norms_and_biases_are_not_decayed_by_option() -> None:
    kernel, gamma = keras.Variable([2.0], name="kernel"), keras.Variable([3.0], name="gamma")
    kernel._path, gamma._path = "stem/conv/kernel", "stem/norm/gamma"
    both = l2_penalty([kernel, gamma], options("optimizer.weight_decay=0.1").optimizer)
    one = l2_penalty(
        [kernel, gamma], options("optimizer.weight_decay=0.1", "optimizer.decay_norm_and_bias=false").optimizer
    )
    assert (float(both), float(one)) == (pytest.approx(0.05 * 13), pytest.approx(0.05 * 4))


def test_averaged_weights_are_swapped_in_and_out() -> None:
    config = options("optimizer.ema=0.5", "optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.milestones=[]")
    variable, optimizer = descend(config, np.array([1.0], np.float32), [np.array([1.0], np.float32)] * 2)
    raw = variable.numpy().copy()  # 1 - 0.1 - 0.1
    with AveragedWeights(optimizer, [variable]):
        # Keras starts the average at the first step's result: 0.5 * 0.9 + 0.5 * 0.8
        assert variable.numpy() == pytest.approx([0.85])
    assert variable.numpy() == raw == pytest.approx([0.8])
