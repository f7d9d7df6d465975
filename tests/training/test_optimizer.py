"""SGD and AdamW against PyTorch's definitions in NumPy, and the averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from frcnn.config import Config, load_config
from frcnn.training.optimizer import AveragedWeights, build_optimizer, short_run_messages
from frcnn.training.update_rules import ema_decay, is_decayed, rate_factor


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
    """One step with each of the gradients."""
    variable = keras.Variable(start, name="kernel")
    optimizer = build_optimizer(config, total_steps=100, variables=[variable])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [variable]))
    for gradient in gradients:
        step(tf.constant(gradient, tf.float32))
    return variable, optimizer


@pytest.mark.parametrize("kernel", ["compiled", "reference"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_weight_decay_are_pytorchs(momentum: float, nesterov: bool, kernel: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=3).astype(np.float32)
    gradients = [rng.normal(size=3).astype(np.float32) for _ in range(5)]
    config = options(
        "optimizer.weight_decay=0.05",
        "optimizer.milestones=[]",
        "optimizer.clip_norm=1.5",
        f"optimizer.momentum={momentum}",
        f"optimizer.nesterov={nesterov}",
        f"ops.kernel={kernel}",
    )
    weights, velocity = start.astype(np.float64), np.zeros(3)
    for gradient in gradients:  # torch.optim.SGD after clip_grad_norm_: the decay is not clipped
        gradient = gradient * min(1.0, 1.5 / np.linalg.norm(gradient)) + 0.05 * weights
        velocity = momentum * velocity + gradient
        weights = weights - 0.1 * (gradient + momentum * velocity if nesterov and momentum else velocity)
    np.testing.assert_allclose(descend(config, start, gradients)[0], weights, rtol=1e-5)


# What torch.optim.AdamW (torch 2.14.1) makes of adamw_case() in float64, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1.
TORCH_ADAMW = [-0.8320695316825825, -1.3506757397299003, -0.29917769928874527]


def adamw_case() -> tuple[np.ndarray, list[np.ndarray]]:
    """Start and gradients that shrink until epsilon matters."""
    rng = np.random.default_rng(5)
    start = rng.normal(size=3)
    return start, [rng.normal(size=3) * 10.0**-k for k in range(10)]


def adamw_updates(start: np.ndarray, gradients: list[np.ndarray], rate: float) -> Iterator[np.ndarray]:
    """The weights after each update by algorithm 2 of Loshchilov & Hutter 2019: betas 0.9 and 0.99, decay 0.1."""
    weights, mean, square = start, np.zeros(len(start)), np.zeros(len(start))
    for step, gradient in enumerate(gradients, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        adaptive = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
        weights = weights - rate * (0.1 * weights + adaptive)
        yield weights


def sgd_updates(start: np.ndarray, gradients: list[np.ndarray], rate: float) -> Iterator[np.ndarray]:
    """The same without momentum and decay."""
    for gradient in gradients:
        start = start - rate * gradient
        yield start


@pytest.mark.parametrize("kernel", ["compiled", "reference"])
def test_adamw_is_pytorchs(kernel: str) -> None:
    start, gradients = adamw_case()
    config = options(
        *("optimizer.name=adamw", "optimizer.weight_decay=0.1", "optimizer.learning_rate=0.01"),
        *("optimizer.betas=[0.9,0.99]", "optimizer.milestones=[]", f"ops.kernel={kernel}"),
    )
    *_, weights = adamw_updates(start, gradients, 0.01)
    np.testing.assert_allclose(weights, TORCH_ADAMW, rtol=1e-12)
    np.testing.assert_allclose(descend(config, start.astype(np.float32), gradients)[0], weights, rtol=2e-6)


def test_adamw_has_defaults_of_its_own() -> None:
    chosen = load_config(overrides=["optimizer.name=adamw"]).optimizer
    assert (chosen.learning_rate, chosen.weight_decay) == (1e-4, 0.05)
    assert load_config(overrides=["optimizer.name=adamw", "optimizer.weight_decay=0.1"]).optimizer.weight_decay == 0.1


def test_the_rate_falls_from_stage_to_stage_of_the_backbone() -> None:
    chosen = options("optimizer.backbone_rate=0.5", "optimizer.layer_rate=0.8").optimizer
    factors = {
        "backbone/stage5_block2/conv1/conv/kernel": 0.5,
        "backbone/stage3_block1/norm/gamma": 0.5 * 0.8**2,
        "backbone/stem/conv/kernel": 0.5 * 0.8**4,
        "fpn/lateral2/conv/kernel": 1.0,
        "kernel": 1.0,
    }
    assert {path: rate_factor(path, chosen) for path in factors} == pytest.approx(factors)
    variable, other = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="kernel")
    variable._path = "backbone/stage4_block1/conv1/conv/kernel"
    config = options("optimizer.backbone_rate=0.5", "optimizer.weight_decay=0", "optimizer.milestones=[]")
    build_optimizer(config, 100, [variable, other]).apply([tf.ones([1]), tf.ones([1])], [variable, other])
    assert (float(variable[0]), float(other[0])) == (pytest.approx(0.95), pytest.approx(0.9))


@pytest.mark.parametrize("float16", [False, True])
def test_checkpoints_of_kerass_optimizer_are_restored(tmp_path: Path, float16: bool) -> None:
    """Earlier versions trained with Keras's SGD: a run that they began is resumed."""
    variables = [keras.Variable(np.ones(shape, np.float32), name="kernel") for shape in ([2, 3], [4])]
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 1.0)
    before = keras.optimizers.SGD(rate, momentum=0.9, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=2)
    before = keras.optimizers.LossScaleOptimizer(before) if float16 else before
    before.build(variables)
    for variable in before.variables:
        variable.assign(np.random.default_rng(0).uniform(1, 9, variable.shape).astype(variable.dtype))
    file = tf.train.Checkpoint(optimizer=before).write(str(tmp_path / "variables"))
    config = options("optimizer.ema=0.5", "optimizer.accumulation=2", *["training.precision=mixed_float16"] * float16)
    now = build_optimizer(config, 100, variables)
    tf.train.Checkpoint(optimizer=now).read(file).assert_consumed()
    names = [variable.path.partition("/")[2] for variable in now.variables]
    assert any("momentum" in name for name in names)
    assert any("average" in name for name in names)
    for variable in now.variables:
        expected = np.random.default_rng(0).uniform(1, 9, variable.shape).astype(variable.dtype)
        np.testing.assert_array_equal(variable.numpy(), expected)


def test_clipping_bounds_the_global_norm() -> None:
    config = options(
        "optimizer.clip_norm=1.0", "optimizer.weight_decay=0", "optimizer.momentum=0", "optimizer.milestones=[]"
    )
    moved, _ = descend(config, np.zeros(2, np.float32), [np.array([30.0, 40.0], np.float32)])
    np.testing.assert_allclose(moved, [-0.06, -0.08], rtol=1e-5)


SGD_OPTIONS = ("optimizer.momentum=0", "optimizer.weight_decay=0")
ADAMW_OPTIONS = ("optimizer.name=adamw", "optimizer.betas=[0.9,0.99]", "optimizer.weight_decay=0.1")


@pytest.mark.parametrize("overflow_at", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("chosen", "updates"), [(SGD_OPTIONS, sgd_updates), (ADAMW_OPTIONS, adamw_updates)], ids=["sgd", "adamw"]
)
def test_float16_overflow_skips_a_batch_of_an_accumulated_update_and_nothing_else(
    chosen: tuple[str, ...], updates: Callable[..., Iterator[np.ndarray]], overflow_at: int
) -> None:
    """Two batches per update, moving averages, and a batch that overflows: the updates are those of the other batches,
    computed in NumPy, and the scale is halved once. The batch changes no variable of the optimizer, such as AdamW's
    moments and its count of steps."""
    config = options(
        *("training.precision=mixed_float16", "optimizer.accumulation=2", "optimizer.ema=0.5", *chosen),
        *("optimizer.milestones=[]", "optimizer.base_batch_size=32"),
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
    state = [variable, *optimizer.inner_optimizer.variables]
    for number in range(5):
        if number == overflow_at:
            before = [entry.numpy().copy() for entry in state]
            step(tf.constant([np.inf, 1.0]))
            for entry, value in zip(state, before, strict=True):
                np.testing.assert_array_equal(entry.numpy(), value, err_msg=entry.path)
            assert float(optimizer.dynamic_scale) == initial / 2
        if number == 4:
            break
        step(tf.constant(finite[number]))
    means = [np.mean(pair, axis=0, dtype=np.float64) for pair in (finite[:2], finite[2:])]
    first, second = updates(start.astype(np.float64), means, 0.1)
    # The decay of the moving average is n / (n + 9) after n batches, 0 at the first update.
    np.testing.assert_allclose(variable.numpy(), second, rtol=2e-6)
    np.testing.assert_allclose(averages[0].numpy(), 2 / 11 * first + 9 / 11 * second, rtol=2e-6)


@pytest.mark.parametrize(
    ("overrides", "decayed"),
    [
        ([], "kernel gamma beta bias"),
        (["optimizer.decay_norm_and_bias=false"], "kernel"),
        (["optimizer.decay_norm=false"], "kernel bias"),
        (["optimizer.decay_bias=false"], "kernel gamma beta"),
        (["optimizer.decay_norm_and_bias=false", "optimizer.decay_norm=true"], "kernel gamma beta"),
    ],
)
def test_norms_and_biases_are_decayed_by_option(overrides: list[str], decayed: str) -> None:
    chosen = options(*overrides).optimizer
    kinds = ("kernel", "gamma", "beta", "bias")
    assert " ".join(kind for kind in kinds if is_decayed(f"stem/{kind}", chosen)) == decayed


def test_a_variable_that_is_not_decayed_keeps_its_value_without_gradient() -> None:
    kernel, gamma = keras.Variable([2.0], name="kernel"), keras.Variable([3.0], name="gamma")
    for name in ("sgd", "adamw"):
        config = options(f"optimizer.name={name}", "optimizer.weight_decay=0.1", "optimizer.decay_norm=false")
        build_optimizer(config, 100, [kernel, gamma]).apply([tf.zeros([1]), tf.zeros([1])], [kernel, gamma])
    assert float(kernel[0]) == pytest.approx(2.0 * 0.99**2)
    assert float(gamma[0]) == 3.0


def test_averaged_weights_are_swapped_in_and_out() -> None:
    config = options("optimizer.ema=0.5", "optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.milestones=[]")
    variable, optimizer = descend(config, np.array([1.0], np.float32), [np.array([1.0], np.float32)] * 2)
    raw = variable.numpy().copy()  # 1 - 0.1 - 0.1
    with AveragedWeights(optimizer, [variable]):
        # The average starts at the first step's result, and the decay at 1 / 10: 0.1 * 0.9 + 0.9 * 0.8
        assert variable.numpy() == pytest.approx([0.81])
    assert variable.numpy() == raw == pytest.approx([0.8])


def test_the_average_covers_the_last_part_of_a_short_run_and_the_options_window_of_a_long_one() -> None:
    chosen = options("optimizer.ema=0.99").optimizer
    for steps, window in ((60, 60 / 10), (300, 300 / 10), (5000, 100)):
        shares = np.ones(1)
        for batch in range(steps):
            kept = float(ema_decay(tf.constant(batch), chosen))
            shares = np.append(shares * kept, 1 - kept)
        assert shares.sum() == pytest.approx(1)
        assert shares[0] == 0, "no share of the random weights"
        age = steps - np.arange(len(shares))
        assert (shares * age).sum() == pytest.approx(window, rel=0.2)
    accumulated = options("optimizer.ema=0.99", "optimizer.accumulation=4").optimizer
    assert [float(ema_decay(tf.constant(batch), accumulated)) for batch in range(5)] == pytest.approx([0, 0, 0, 0, 0.1])


def test_a_run_that_is_shorter_than_its_average_says_so() -> None:
    chosen = options("optimizer.ema=0.995").optimizer
    assert short_run_messages(chosen, 200) == []
    assert short_run_messages(chosen, 60) == [
        "optimizer.ema=0.995 averages the weights of about 200 steps, but the run has 60: its average will cover about "
        "the last 8"
    ]
