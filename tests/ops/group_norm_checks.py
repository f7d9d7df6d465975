"""Checks of group norm without TensorFlow, as those of ``shim_runs``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shim_runs
from group_norm_oracle import case, oracle

EPSILON = 1e-3


def norm_call(
    shape: tuple[int, ...], groups: int, relu: bool, dtype: int = 0, mean: float = 0.5
) -> tuple[np.ndarray, shim_runs.Format, list[np.ndarray], list[np.ndarray]]:
    """Head, format, inputs (the arrays of ``group_norm_oracle.case``) and the results of its oracle."""
    encode, decode, *_ = number_format = shim_runs.FORMATS[dtype]
    inputs, gamma, beta, upstream = case(shape, mean)
    inputs, upstream = encode(inputs), encode(upstream)
    gamma, beta = gamma.astype(np.float32), beta.astype(np.float32)
    wide = [np.asarray(array, np.float64) for array in (decode(inputs), gamma, beta, decode(upstream))]
    head = np.int32([shape[0], shape[1] * shape[2], shape[3], groups, dtype, relu])
    expected = oracle(*wide, groups, EPSILON, relu)
    return head, number_format, [inputs, gamma, beta, upstream], expected


def check_norm(program: shim_runs.Program, order: str, call: tuple[np.ndarray, shim_runs.Format, list, list]) -> None:
    head, (_, decode, raw, tolerance), (inputs, gamma, beta, upstream), expected = call

    def results(operation: str, *arrays: np.ndarray) -> list[np.ndarray]:
        found, _ = shim_runs.run(program, operation, order, head, *arrays)
        size = inputs.nbytes
        return [decode(np.frombuffer(found[:size], raw)), *np.split(np.frombuffer(found[size:], np.float32), 2)]

    outputs, *statistics = results("group_norm", np.float32([EPSILON]), inputs, gamma, beta)
    gradients = results("group_norm_gradient", upstream, inputs, gamma, beta, *statistics)
    for values, wanted in zip([outputs, *gradients], expected, strict=True):
        largest = np.abs(wanted).max()
        np.testing.assert_allclose(
            values, wanted.ravel(), rtol=1.1 * tolerance.get("rtol", 1e-5), atol=2e-5 * max(largest, 1.0)
        )


def checks() -> list[tuple[str, Callable[[shim_runs.Program, str], None]]]:
    """Name and function of each check."""
    calls = {
        "two groups per load": norm_call((2, 9, 11, 16), 8, True),
        "single channels, odd groups": norm_call((3, 5, 3, 21), 7, False),
        "bfloat16": norm_call((2, 13, 7, 64), 4, True, dtype=1),
        "float16, one pixel": norm_call((2, 1, 1, 48), 3, True, dtype=2),
        "more channels per group than threads": norm_call((1, 10, 12, 300), 2, True, mean=300.0),
    }
    return [
        (f"group norm, {name}", lambda program, order, call=call: check_norm(program, order, call))
        for name, call in calls.items()
    ]
