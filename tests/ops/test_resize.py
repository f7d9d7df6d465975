"""The resize onto a canvas: the compiled operation against its definition, and both against slow oracles."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from resize_oracle import ResizeCase, expected_canvas

from frcnn import ops
from frcnn.ops.resize import ResizeFilter

KERNELS: tuple[ops.Kernel, ...] = ("compiled", "reference")
METHODS: tuple[ResizeFilter, ...] = ("bilinear", "pillow")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def placement(case: ResizeCase) -> ops.Placement:
    return ops.Placement(*map(tf.constant, (case.resized, case.offset, case.canvas)))


def run(pixels: np.ndarray, case: ResizeCase, method: ResizeFilter, kernel: ops.Kernel) -> np.ndarray:
    return ops.resize_to_canvas(
        tf.constant(pixels),
        placement(case),
        method=method,
        flips=tf.constant(case.flips),
        extent=None if case.extent is None else tf.constant(case.extent),
        reverse_channels=case.reverse_channels,
        kernel=kernel,
    ).numpy()


sides = st.one_of(st.integers(1, 9), st.integers(1, 70))
pairs = st.tuples(sides, sides)


@given(
    size=pairs,
    resized=pairs,
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    canvas=pairs,
    flips=st.tuples(st.booleans(), st.booleans()),
    reverse=st.booleans(),
    method=st.sampled_from(METHODS),
    keep_size=st.booleans(),
    missing=st.sampled_from([None, (0.0, 0.5), (0.875, 0.25)]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_operation_and_its_definition_give_the_same_pixels(
    size: tuple[int, int],
    resized: tuple[int, int],
    place: tuple[float, float],
    canvas: tuple[int, int],
    flips: tuple[bool, bool],
    reverse: bool,
    method: ResizeFilter,
    keep_size: bool,
    missing: tuple[float, float] | None,
) -> None:
    """One-pixel sides, enlarged and reduced, cropped and padded, and images of which a part of a pixel is missing."""
    resized = size if keep_size else resized
    offset = (int(place[0] * resized[0]), int(place[1] * resized[1]))
    extent = None if missing is None or method == "bilinear" else (size[0] - missing[0], size[1] - missing[1])
    case = ResizeCase(resized, offset, canvas, flips, reverse, extent)
    pixels = noise(*size, seed=sum(size))
    np.testing.assert_array_equal(*(run(pixels, case, method, kernel) for kernel in KERNELS))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "resized"), [((97, 131), (163, 220)), ((211, 260), (80, 99)), ((300, 70), (40, 60))])
def test_larger_images_have_the_same_pixels(
    size: tuple[int, int], resized: tuple[int, int], method: ResizeFilter
) -> None:
    case = ResizeCase(resized, (0, 0), (resized[0] + 5, resized[1] - 7), (False, True))
    pixels = noise(*size)
    np.testing.assert_array_equal(*(run(pixels, case, method, kernel) for kernel in KERNELS))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "case",
    [
        ResizeCase((7, 9), (0, 0), (7, 9)),
        ResizeCase((34, 31), (5, 3), (20, 40), (True, False), True),
        ResizeCase((17, 23), (2, 1), (9, 9), (True, True)),
    ],
)
def test_pixels_match_a_slow_oracle(case: ResizeCase, method: ResizeFilter, kernel: ops.Kernel) -> None:
    pixels = noise(17, 23)
    pixels[:4], pixels[4:8] = 0, 255
    found = run(pixels, case, method, kernel).astype(float)
    # Rounded once, and for Pillow's method after each axis.
    np.testing.assert_allclose(found, expected_canvas(pixels, case, method), atol=0.502 if method == "bilinear" else 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_antialiased_resize_is_pillows(kernel: ops.Kernel) -> None:
    pixels = noise(90, 120)
    for size in [(30, 41), (90, 50), (20, 119), (140, 200)]:
        expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
        found = run(pixels, ResizeCase(size, (0, 0), size), "pillow", kernel)
        np.testing.assert_array_equal(found, expected, err_msg=str(size))


def test_a_very_wide_image_has_weights_of_a_few_bits() -> None:
    pixels = np.full((1, 200_000, 3), 255, np.uint8)
    case = ResizeCase((1, 2), (0, 0), (2, 3))
    found = [run(pixels, case, method, "compiled") for method in METHODS]
    np.testing.assert_array_equal(found[1], run(pixels, case, "pillow", "reference"))
    assert found[0].tolist() == [[[255] * 3, [255] * 3, [0] * 3], [[0] * 3] * 3]


@pytest.mark.parametrize("kernel", KERNELS)
def test_in_a_graph_with_sizes_known_at_run_time(kernel: ops.Kernel) -> None:
    """As the input pipeline calls it."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([2, 2], tf.int32),
            tf.TensorSpec([2], tf.int32),
        ]
    )
    def place(pixels: tf.Tensor, geometry: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
        images = ops.resize_to_canvas(
            pixels, ops.Placement(geometry[0], geometry[1], canvas), method="pillow", kernel=kernel
        )
        assert images.shape.as_list() == [None, None, 3]
        return images

    pixels = noise(8, 6)
    np.testing.assert_array_equal(place(pixels, [[8, 6], [1, 2]], [3, 3]), pixels[1:4, 2:5])


def run_normalized(pixels: np.ndarray, case: ResizeCase, kernel: ops.Kernel) -> np.ndarray:
    mean, inverse_std = np.float32([103.5, 116.3, 123.7]), np.float32([1 / 58.4, 1 / 57.1, 1 / 57.4])
    return ops.resize_and_normalize(
        tf.constant(pixels),
        placement(case),
        mean=mean,
        inverse_std=inverse_std,
        reverse_channels=case.reverse_channels,
        kernel=kernel,
    ).numpy()


@given(size=pairs, resized=pairs, place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), canvas=pairs)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_normalized_values_are_the_same(
    size: tuple[int, int], resized: tuple[int, int], place: tuple[float, float], canvas: tuple[int, int]
) -> None:
    offset = (int(place[0] * resized[0]), int(place[1] * resized[1]))
    case = ResizeCase(resized, offset, canvas, reverse_channels=size[0] % 2 > 0)
    pixels = noise(*size, seed=sum(size))
    np.testing.assert_array_equal(*(run_normalized(pixels, case, kernel) for kernel in KERNELS))


@pytest.mark.parametrize("kernel", KERNELS)
def test_normalized_values_match_a_slow_oracle(kernel: ops.Kernel) -> None:
    pixels, case = noise(17, 23), ResizeCase((34, 31), (5, 3), (20, 40), reverse_channels=True)
    expected = expected_canvas(pixels, case, "bilinear") - [103.5, 116.3, 123.7]
    expected[:, 28:] = 0
    found = run_normalized(pixels, case, kernel)
    np.testing.assert_allclose(found, expected / [58.4, 57.1, 57.4], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "case"),
    [
        ((8, 6, 4), ResizeCase((8, 6), (0, 0), (8, 6))),
        ((0, 6, 3), ResizeCase((8, 6), (0, 0), (8, 6))),
        ((8, 6, 3), ResizeCase((8, 6), (8, 0), (8, 6))),
        ((8, 6, 3), ResizeCase((8, 6), (0, -1), (8, 6))),
        ((8, 6, 3), ResizeCase((8, 0), (0, 0), (8, 6))),
        ((8, 6, 3), ResizeCase((8, 6), (0, 0), (0, 6))),
        ((8, 6, 3), ResizeCase((8, 6), (0, 0), (8, 6), extent=(8.0, 6.5))),
    ],
)
def test_impossible_sizes_are_errors(shape: tuple[int, ...], case: ResizeCase) -> None:
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        run(np.zeros(shape, np.uint8), case, "bilinear", "compiled")
    if case.extent is None:
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            run_normalized(np.zeros(shape, np.uint8), case, "compiled")
