"""Convolution padding and norms against NumPy and Keras's layers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from frcnn import ops
from frcnn.modeling.fpn import _add_upsampled
from frcnn.modeling.layers import conv, conv_norm, folded_together
from frcnn.modeling.norms import BatchNorm, FrozenBatchNorm, GroupNorm
from frcnn.ops.compiled import active_kernels


def randomized(layer: keras.layers.Layer, inputs: tf.Tensor, rng: np.random.Generator) -> keras.layers.Layer:
    layer.build(inputs.shape)
    for variable in layer.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return layer


@pytest.mark.parametrize("gpus", [[], ["GPU:0"]])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (3, 2, 8), (3, 2, 7), (7, 2, 10), (1, 2, 8)])
def test_conv_pads_all_sides_equally(
    kernel: int, stride: int, size: int, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: gpus)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(size, size)).astype(np.float32)
    layer = conv(1, kernel, stride, use_bias=False, initializer="ones", name="conv")
    got = layer(tf.constant(image[None, :, :, None]))[0, :, :, 0].numpy()
    padded = np.pad(image, kernel // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel))[::stride, ::stride]
    np.testing.assert_allclose(got, windows.sum(axis=(2, 3)), rtol=1e-5, atol=1e-5)


def test_group_norm_matches_its_definition() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(3.0, 2.0, (2, 5, 6, 64)).astype(np.float32)
    layer = randomized(GroupNorm(1e-5, "norm"), tf.constant(inputs), rng)
    groups = inputs.astype(np.float64).reshape(2, 30, 32, 2)
    mean, variance = groups.mean(axis=(1, 3), keepdims=True), groups.var(axis=(1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(
        inputs.shape
    ) * layer.gamma.numpy() + layer.beta.numpy()
    np.testing.assert_allclose(layer(tf.constant(inputs)), expected, rtol=1e-4, atol=1e-4)


def test_group_norm_statistics_stay_float32_under_bfloat16() -> None:
    rng = np.random.default_rng(2)
    # Mean 50, standard deviation 1: sums of squares in bfloat16 would lose the variance.
    rounded = tf.cast(tf.constant(rng.normal(50.0, 1.0, (1, 16, 16, 32)), tf.float32), tf.bfloat16)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        narrow = GroupNorm(1e-5, "narrow")
    finally:
        keras.config.set_dtype_policy(before)
    outputs = narrow(rounded)
    assert outputs.dtype == tf.bfloat16
    expected = GroupNorm(1e-5, "wide")(tf.cast(rounded, tf.float32))
    # x * scale and shift are about 50 in bfloat16, which has 8 significant bits: rounding by up to 0.25 each.
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.6)


def test_batch_norm_normalizes_and_updates_statistics_as_pytorch_does() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(2.0, 3.0, (4, 3, 3, 8)).astype(np.float32)
    layer = BatchNorm(1e-5, "norm")
    outputs = layer(tf.constant(inputs), training=True).numpy()
    flat = inputs.reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(
        outputs.reshape(-1, 8), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * flat.mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("kind", [BatchNorm, FrozenBatchNorm])
def test_inference_uses_the_moving_statistics(kind: type) -> None:
    rng = np.random.default_rng(4)
    inputs = tf.constant(rng.normal(size=(2, 3, 3, 8)), tf.float32)
    layer = randomized(kind(1e-3, "norm"), inputs, rng)
    peer = keras.layers.BatchNormalization(epsilon=1e-3)
    peer.build(inputs.shape)
    peer.set_weights([layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance])
    np.testing.assert_allclose(layer(inputs), peer(inputs, training=False), rtol=1e-5, atol=1e-5)


def test_frozen_batch_norm_has_no_trainable_variables() -> None:
    layer = randomized(FrozenBatchNorm(1e-5, "norm"), tf.zeros([1, 2, 2, 4]), np.random.default_rng(5))
    assert layer.trainable_variables == []
    assert len(layer.variables) == 4


def unfolded(convolution: keras.layers.Layer, normalization: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    return normalization(convolution(inputs))


@pytest.mark.parametrize("kind", [BatchNorm, FrozenBatchNorm])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2), (1, 2)])
def test_a_folded_norm_gives_the_same_outputs_and_gradients(kind: type, kernel: int, stride: int) -> None:
    rng = np.random.default_rng(6)
    inputs = tf.constant(rng.normal(size=(2, 9, 10, 5)), tf.float32)
    convolution = conv(4, kernel, stride, use_bias=False, initializer="he_normal", name="conv")
    normalization = randomized(kind(1e-5, "norm"), convolution(inputs), rng)
    found = {}
    for function in (unfolded, conv_norm):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(convolution, normalization, inputs)
            loss = tf.reduce_sum(tf.sin(outputs))
        found[function] = [outputs, *tape.gradient(loss, [inputs, convolution.kernel.value])]
    for folded, expected in zip(found[conv_norm], found[unfolded], strict=True):
        np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-4)
    convolution.fold(normalization)
    np.testing.assert_allclose(conv_norm(convolution, normalization, inputs), found[unfolded][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["compiled", "reference"])
def test_kernels_folded_together_are_those_of_each_convolution(kernel: ops.Kernel) -> None:
    rng = np.random.default_rng(9)
    pairs, inputs = [], tf.constant(rng.normal(size=(1, 5, 5, 6)), tf.float32)
    for channels, kind, epsilon in ((3, FrozenBatchNorm, 1e-5), (5, FrozenBatchNorm, 1e-3), (4, FrozenBatchNorm, 1e-5)):
        convolution = conv(channels, 3, use_bias=False, initializer="he_normal", name="conv")
        pairs.append((convolution, randomized(kind(epsilon, "norm"), convolution(inputs), rng)))
    others = [(pairs[0][0], GroupNorm(1e-5, "gn")), (pairs[0][0], FrozenBatchNorm(1e-5, "not built"))]
    kernels = [convolution.kernel.value for convolution, _ in pairs]

    def folded() -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape, folded_together([pairs[:2], [*pairs[2:], *others]], kernel):
            outputs = [conv_norm(*pair, inputs) for pair in pairs]
            total = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in outputs])
        return outputs, tape.gradient(total, kernels)

    outputs, gradients = folded()
    for pair, output, gradient in zip(pairs, outputs, gradients, strict=True):
        with tf.GradientTape() as tape:
            expected = unfolded(*pair, inputs)
            total = tf.reduce_sum(tf.sin(expected))
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient, tape.gradient(total, pair[0].kernel.value), rtol=1e-4, atol=1e-4)
    kinds = list(executed_operations(tf.function(folded)))
    assert kinds.count("Rsqrt") == 2  # one for each epsilon
    if kernel == "compiled":
        assert kinds.count("FrcnnChannelScale") == 4  # one for each group, forward and backward


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_top_down_sum_and_its_gradient(dtype: str) -> None:
    rng = np.random.default_rng(10)
    fine, coarse, weights = (
        tf.cast(tf.constant(rng.normal(size=(2, *shape, 4))), dtype) for shape in ((6, 10), (3, 5), (6, 10))
    )
    with tf.GradientTape() as tape:
        tape.watch([fine, coarse])
        merged = _add_upsampled(fine, coarse)
        total = tf.reduce_sum(merged * weights)
    wide = [np.asarray(tf.cast(tensor, tf.float64)) for tensor in (fine, coarse, weights)]
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    expected = wide[0] + wide[1].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(tf.cast(merged, tf.float64), expected, **tolerance)
    of_fine, of_coarse = tape.gradient(total, [fine, coarse])
    np.testing.assert_array_equal(of_fine, weights)
    sums = wide[2].reshape(2, 3, 2, 5, 2, 4).sum(axis=(2, 4))
    np.testing.assert_allclose(tf.cast(of_coarse, tf.float64), sums, **tolerance)


def test_norms_that_depend_on_their_inputs_are_not_folded() -> None:
    rng = np.random.default_rng(7)
    inputs = tf.constant(rng.normal(3.0, 1.0, (2, 6, 6, 4)), tf.float32)
    convolution = conv(32, 3, use_bias=False, initializer="he_normal", name="conv")
    for normalization, training in ((BatchNorm(1e-5, "bn"), True), (GroupNorm(1e-5, "gn"), False)):
        outputs = conv_norm(convolution, normalization, inputs, training)
        np.testing.assert_allclose(outputs, conv_norm(convolution, normalization, inputs, training), rtol=1e-5)
        assert abs(float(tf.reduce_mean(outputs))) < 1e-3
    assert conv_norm(convolution, BatchNorm(1e-5, "new"), inputs, True).shape == outputs.shape


def test_tensorflow_fuses_convolution_folded_norm_and_relu() -> None:
    rng = np.random.default_rng(8)
    inputs = tf.constant(rng.normal(size=(1, 8, 8, 4)), tf.float32)
    convolution = conv(4, 3, use_bias=False, initializer="he_normal", name="conv")
    normalization = randomized(FrozenBatchNorm(1e-5, "norm"), convolution(inputs), rng)
    executed = {}
    for function in (unfolded, conv_norm):
        traced = tf.function(lambda values, function=function: tf.nn.relu(function(convolution, normalization, values)))
        executed[function] = executed_operations(traced, inputs)
    # oneDNN's names of the operations contain TensorFlow's.
    counts = {
        function: {kind: sum(kind in name for name in names) for kind in ("FusedConv2D", "Conv2D", "Relu", "BiasAdd")}
        for function, names in executed.items()
    }
    assert counts[unfolded] == {"FusedConv2D": 0, "Conv2D": 1, "Relu": 1, "BiasAdd": 0}
    assert counts[conv_norm] == {"FusedConv2D": 1, "Conv2D": 1, "Relu": 0, "BiasAdd": 0}


def test_on_gpus_bias_residual_and_relu_are_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    inputs, residual = (tf.constant(rng.normal(size=(1, 8, 8, 4)), tf.float32) for _ in range(2))
    convolution = conv(4, 3, use_bias=False, initializer="he_normal", name="conv")
    normalization = randomized(FrozenBatchNorm(1e-5, "norm"), convolution(inputs), rng)
    results, kinds = [], []
    active_kernels()
    for convolution.bias_kernel in ("reference", "compiled"):
        monkeypatch.setattr(ops, "uses_gpu", lambda: True)
        traced = tf.function(lambda: conv_norm(convolution, normalization, inputs, relu=True, residual=residual))
        kinds.append({operation.type for operation in traced.get_concrete_function().graph.get_operations()})
        results.append(traced())
    elementwise = {"BiasAdd", "Relu", "FrcnnBiasRelu"}
    assert [found & elementwise for found in kinds] == [{"BiasAdd", "Relu"}, {"FrcnnBiasRelu"}]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        results[0], tf.nn.relu(unfolded(convolution, normalization, inputs) + residual), rtol=1e-4, atol=1e-5
    )


def executed_operations(function: object, *inputs: tf.Tensor) -> list[str]:
    """Types of the operations that TensorFlow runs for a function, after its graph optimizations."""
    with tf.device("CPU:0"):
        context.enable_graph_collection()
        try:
            function(*inputs)
            metadata = context.export_run_metadata()
        finally:
            context.disable_graph_collection()
    return [node.op for graph in metadata.partition_graphs for node in graph.node]
