"""Checks of the resize onto a canvas without TensorFlow, as those of ``shim_runs``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shim_runs
from resize_oracle import ResizeCase, expected_canvas

CASES = {
    "bilinear, enlarged and padded": ("bilinear", (11, 14), ResizeCase((26, 33), (0, 0), (30, 40), (False, True))),
    "bilinear, reduced and cropped": ("bilinear", (40, 31), ResizeCase((17, 13), (4, 3), (9, 10), (True, False), True)),
    "bilinear, one pixel": ("bilinear", (1, 1), ResizeCase((3, 5), (0, 0), (4, 5))),
    "the same size": ("bilinear", (9, 21), ResizeCase((9, 21), (2, 1), (6, 25), (True, False), True)),
    "antialiased, reduced": ("pillow", (45, 60), ResizeCase((20, 33), (1, 2), (21, 29), (True, True), True)),
    "antialiased, height first": ("pillow", (60, 20), ResizeCase((13, 19), (0, 0), (13, 19), (True, False))),
    "antialiased, part of the last pixel": (
        "pillow",
        (31, 26),
        ResizeCase((14, 12), (0, 0), (14, 12), (True, True), extent=(30.5, 25.25)),
    ),
    "antialiased, enlarged": ("pillow", (7, 5), ResizeCase((16, 18), (0, 0), (16, 18))),
}


def check_resize(program: shim_runs.Program, order: str, name: str) -> None:
    method, size, case = CASES[name]
    pixels = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
    flags = (*case.flips, case.reverse_channels, True)
    head = np.int32([method == "pillow", *size, *case.resized, *case.offset, *case.canvas, *flags])
    mean, std = np.float32([100, 110, 120]), np.float32([50, 60, 70])
    arrays = (head, np.float32(case.extent or size), mean, 1 / std, pixels)
    expected = expected_canvas(pixels, case, method)
    found = shim_runs.run(program, "resize", order, *arrays)[0]
    # Rounded once, and for Pillow's method after each axis.
    atol = 0.502 if method == "bilinear" else 1
    np.testing.assert_allclose(np.frombuffer(found, np.uint8).reshape(expected.shape), expected, atol=atol)
    if method == "bilinear":
        found = shim_runs.run(program, "resize_and_normalize", order, *arrays)[0]
        height, width = (min(a - b, c) for a, b, c in zip(case.resized, case.offset, case.canvas, strict=True))
        inside = np.zeros(expected.shape)
        inside[:height, :width] = (expected[:height, :width] - mean) / std
        np.testing.assert_allclose(np.frombuffer(found, np.float32).reshape(expected.shape), inside, atol=1e-4)


def checks() -> list[tuple[str, Callable[[shim_runs.Program, str], None]]]:
    """Name and function of each check; there is no GPU kernel."""
    return [(f"resize, {name}", lambda program, order, name=name: check_resize(program, order, name)) for name in CASES]
