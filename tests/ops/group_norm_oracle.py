"""Group norm with ReLU and its gradient in NumPy, float64."""

from __future__ import annotations

import numpy as np


def case(shape: tuple[int, ...], mean: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    channels = shape[-1]
    inputs, upstream = rng.normal(mean, 2.0, shape), rng.normal(size=shape)
    return inputs, rng.uniform(0.5, 1.5, channels), rng.normal(size=channels), upstream


def oracle(
    inputs: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    upstream: np.ndarray,
    groups: int,
    epsilon: float,
    relu: bool,
) -> list[np.ndarray]:
    """Outputs and the gradients of inputs, gamma and beta, by the chain rule written out, in float64."""
    batch, channels = inputs.shape[0], inputs.shape[-1]
    grouped = inputs.reshape(batch, -1, groups, channels // groups)
    mean, variance = grouped.mean(axis=(1, 3), keepdims=True), grouped.var(axis=(1, 3), keepdims=True)
    normalized = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(inputs.shape)
    outputs = normalized * gamma + beta
    behind = upstream * (outputs > 0) if relu else upstream
    inner = (behind * gamma).reshape(grouped.shape)
    flat = normalized.reshape(grouped.shape)
    averages = inner.mean(axis=(1, 3), keepdims=True), (inner * flat).mean(axis=(1, 3), keepdims=True)
    gradient = (inner - averages[0] - flat * averages[1]) / np.sqrt(variance + epsilon)
    of_gamma, of_beta = (behind * normalized).sum(axis=(0, 1, 2)), behind.sum(axis=(0, 1, 2))
    return [np.maximum(outputs, 0) if relu else outputs, gradient.reshape(inputs.shape), of_gamma, of_beta]
