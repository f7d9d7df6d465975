"""Global norm, and updates of all variables of a model at once: the definition in TensorFlow, and the compiled kernels.

TensorFlow's operations take one variable each, and clipping, weight decay and moving average are further ones: a step
of ResNet-50 dispatched some 300, each of them a launch on a GPU. The kernels read and write every variable once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from frcnn.ops import compiled


class Rule(NamedTuple):
    """How variables are updated.

    Attributes:
        name: ``sgd``; ``momentum`` and ``nesterov`` have a velocity, ``adamw`` two moments, per variable; ``average``
            moves averages towards the weights.
        momentum: of the velocity.
        beta_1, beta_2: decay of the moments.
    """

    name: Literal["sgd", "momentum", "nesterov", "adamw", "average"]
    momentum: float = 0.0
    beta_1: float = 0.0
    beta_2: float = 0.0


class Scalars(NamedTuple):
    """What all variables share, float32 scalars.

    Attributes:
        rate: learning rate; for ``average``, the weight of its old value.
        scale: factor of the gradients.
        correction: AdamW: factor of the step, for the bias of the moments.
        epsilon: AdamW: added to the root of the second moment.
    """

    rate: tf.Tensor
    scale: tf.Tensor | float = 1.0
    correction: tf.Tensor | float = 1.0
    epsilon: tf.Tensor | float = 0.0


class Variables(NamedTuple):
    """Lists of equal length, float32; those that a rule does not have are empty.

    Attributes:
        weights: the model's variables.
        gradients: tensors of their shapes.
        first: velocities, first moments or averages.
        second: second moments.
        rate_factors: factors of the learning rate.
        decays: weight decays.
    """

    weights: Sequence[tf.Variable]
    gradients: Sequence[tf.Tensor] = ()
    first: Sequence[tf.Variable] = ()
    second: Sequence[tf.Variable] = ()
    rate_factors: Sequence[float] = ()
    decays: Sequence[float] = ()


def reference(rule: Rule, variables: Variables, scalars: Scalars) -> None:
    """See :func:`frcnn.ops.update`."""
    if rule.name == "average":
        for weight, average in zip(variables.weights, variables.first, strict=True):
            average.assign_sub((1.0 - scalars.rate) * (average - weight))
        return
    for i, (weight, gradient) in enumerate(zip(variables.weights, variables.gradients, strict=True)):
        rate, decay = scalars.rate * variables.rate_factors[i], variables.decays[i]
        scaled = scalars.scale * gradient
        if rule.name == "adamw":
            first, second = variables.first[i], variables.second[i]
            first.assign_add((1.0 - rule.beta_1) * (scaled - first))
            second.assign_add((1.0 - rule.beta_2) * (tf.square(scaled) - second))
            weight.assign_sub(decay * rate * weight)
            weight.assign_sub(rate * scalars.correction * first / (tf.sqrt(second) + scalars.epsilon))
            continue
        step = rate * (scaled + decay * weight)
        if rule.name == "sgd":
            weight.assign_sub(step)
            continue
        velocity = variables.first[i]
        velocity.assign(rule.momentum * velocity - step)
        weight.assign_add(rule.momentum * velocity - step if rule.name == "nesterov" else velocity)


def fused(rule: Rule, variables: Variables, scalars: Scalars) -> None:
    """See :func:`frcnn.ops.update`. One operation; on a GPU, one launch per 48 variables."""
    ones = [1.0] * len(variables.weights)
    compiled.operations().frcnn_update(
        weights=[variable.handle for variable in variables.weights],
        first=[variable.handle for variable in variables.first],
        second=[variable.handle for variable in variables.second],
        gradients=list(variables.gradients),
        scalars=tf.stack([tf.cast(scalar, tf.float32) for scalar in scalars]),
        rule=rule.name,
        rate_factors=list(variables.rate_factors) or ones,
        decays=list(variables.decays) or ones,
        momentum=rule.momentum,
        beta1=rule.beta_1,
        beta2=rule.beta_2,
    )


def fused_norm(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """See :func:`frcnn.ops.global_norm`. Sums of squares are added in double precision, in a fixed order."""
    return compiled.operations().frcnn_global_norm(tensors=list(tensors))
