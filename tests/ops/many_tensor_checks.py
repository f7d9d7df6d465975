"""Checks of the operations on many variables at once without TensorFlow, as those of ``shim_runs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import shim_runs

RULES = ("sgd", "momentum", "nesterov", "adamw", "average")
MOMENTUM, BETAS = 0.9, (0.8, 0.95)
# Which of weight, first and second state a rule updates.
WRITTEN = {"sgd": (0,), "momentum": (0, 1), "nesterov": (0, 1), "adamw": (0, 1, 2), "average": (1,)}


class UpdateCase(NamedTuple):
    """Variables of an update, float32, and what they share: rate, scale, correction, epsilon."""

    rule: str
    weights: list[np.ndarray]
    gradients: list[np.ndarray]
    first: list[np.ndarray]
    second: list[np.ndarray]
    rate_factors: np.ndarray
    decays: np.ndarray
    scalars: np.ndarray


def update_case(rule: str, sizes: list[int]) -> UpdateCase:
    rng = np.random.default_rng(len(sizes))

    def values() -> list[np.ndarray]:
        return [rng.normal(size=size).astype(np.float32) for size in sizes]

    return UpdateCase(
        rule,
        values(),
        values(),
        values(),
        [np.abs(array) for array in values()],
        rng.uniform(0.5, 2, len(sizes)).astype(np.float32),
        rng.uniform(0, 0.1, len(sizes)).astype(np.float32),
        np.float32([0.9 if rule == "average" else 0.05, 0.5, 1.25, 1e-3]),
    )


def updated(case: UpdateCase, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight and states of a variable after the update, in float64."""
    weight, gradient, first, second = (
        arrays[i].astype(np.float64) for arrays in (case.weights, case.gradients, case.first, case.second)
    )
    shared_rate, scale, correction, epsilon = map(float, case.scalars)
    rate, decay, gradient = shared_rate * float(case.rate_factors[i]), float(case.decays[i]), scale * gradient
    if case.rule == "average":
        return weight, shared_rate * first + (1 - shared_rate) * weight, second
    if case.rule == "adamw":
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        return weight * (1 - rate * decay) - rate * correction * first / (np.sqrt(second) + epsilon), first, second
    step = rate * (gradient + decay * weight)
    if case.rule == "sgd":
        return weight - step, first, second
    first = MOMENTUM * first - step
    return weight + (MOMENTUM * first - step if case.rule == "nesterov" else first), first, second


def check_update(program: shim_runs.Program, order: str, case: UpdateCase, elsewhere: bool) -> None:
    """``elsewhere``: the results go to other memory than the inputs."""
    count = len(case.weights)
    arrays = [
        np.int32([RULES.index(case.rule), count, elsewhere]),
        np.float32([MOMENTUM, *BETAS]),
        case.scalars,
        np.int32([weight.size for weight in case.weights]),
        case.rate_factors,
        case.decays,
    ]
    for i in range(count):
        arrays += [case.weights[i], case.gradients[i], case.first[i], case.second[i]]
    found = np.frombuffer(shim_runs.run(program, "update", order, *arrays)[0], np.float32)
    written = WRITTEN[case.rule]  # the others keep their values
    position = 0
    for i in range(count):
        for number, expected in enumerate(updated(case, i)):
            values = found[position : position + expected.size]
            position += expected.size
            if number in written:
                np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
            elif not elsewhere:
                np.testing.assert_array_equal(values, expected)
    assert position == found.size


def check_norm(program: shim_runs.Program, order: str, sizes: list[int]) -> None:
    tensors = [np.random.default_rng(size).normal(size=size).astype(np.float32) for size in sizes]
    found = shim_runs.run(program, "global_norm", order, np.int32([len(sizes)]), np.int32(sizes), *tensors)[0]
    expected = np.linalg.norm(np.concatenate(tensors).astype(np.float64))
    np.testing.assert_allclose(np.frombuffer(found, np.float32), [expected], rtol=1e-6)


def check_channel_scale(
    program: shim_runs.Program, order: str, types: tuple[int, int], shapes: list[tuple[int, int]]
) -> None:
    """``types``: indices of the formats of inputs and outputs."""
    rng = np.random.default_rng(len(shapes))
    source, target = (shim_runs.FORMATS[number] for number in types)
    inputs = [source.encode(rng.normal(size=shape)) for shape in shapes]
    scales = [rng.normal(size=shape[1]).astype(np.float32) for shape in shapes]
    channels = np.int32([shape[1] for shape in shapes])
    head = np.int32([*types, len(shapes)]), np.int32([values.size for values in inputs]), channels
    pairs = [array for pair in zip(inputs, scales, strict=True) for array in pair]
    found = np.frombuffer(shim_runs.run(program, "channel_scale", order, *head, *pairs)[0], target.raw)
    products = [source.decode(values) * scale for values, scale in zip(inputs, scales, strict=True)]
    np.testing.assert_array_equal(found, np.concatenate([target.encode(product).ravel() for product in products]))


# More tensors than a launch has, of none to several chunks.
MANY = [*range(60), 2047, 2048, 2049, 5000]
FEW = [1, 70, 4100, 33000]


SCALED = [
    ((0, 0), [(3, 7), (0, 5), (50, 90), (5000, 3)]),
    ((0, 1), [(i, 1 + i % 9) for i in range(70)]),
    ((0, 2), [(31, 67)]),
    ((1, 0), [(4100, 1), (2, 2049)]),
    ((2, 0), [(64, 64), (1, 1)]),
]


def checks() -> list[tuple[str, Callable[[shim_runs.Program, str], None]]]:
    """Name and function of each check."""
    cases = [(update_case(rule, FEW), rule == "adamw") for rule in RULES]
    cases.append((update_case("momentum", MANY), True))
    return [
        *(
            (
                f"update, {case.rule}, {len(case.weights)} variables",
                lambda program, order, case=case, elsewhere=elsewhere: check_update(program, order, case, elsewhere),
            )
            for case, elsewhere in cases
        ),
        *(
            (
                f"global norm of {len(sizes)} tensors",
                lambda program, order, sizes=sizes: check_norm(program, order, sizes),
            )
            for sizes in (MANY, FEW)
        ),
        *(
            (
                f"channel scale, {len(shapes)} tensors, types {types}",
                lambda program, order, types=types, shapes=shapes: check_channel_scale(program, order, types, shapes),
            )
            for types, shapes in SCALED
        ),
    ]
