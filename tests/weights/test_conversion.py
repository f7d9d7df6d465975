"""Layouts by what they compute, and the checks of every tensor."""

from __future__ import annotations

import numpy as np
import pytest

from frcnn.errors import UserError
from frcnn.weights.conversion import (
    Target,
    Translation,
    convert,
    convolution,
    dense,
    dense_after_pooling,
    plain,
    resnet_name,
)

BLOCK = r"s(?P<stage>\d)\.(?P<block>\d+)\.c(?P<conv3>3)?"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_convolution_gives_the_same_output_at_a_pixel(rng: np.random.Generator) -> None:
    kernel, patch = rng.normal(size=(5, 4, 3, 2)), rng.normal(size=(4, 3, 2))  # [out, in, h, w], [in, h, w]
    ours = np.einsum("hwio,hwi->o", convolution(kernel), patch.transpose(1, 2, 0))
    np.testing.assert_allclose(ours, (kernel * patch).sum(axis=(1, 2, 3)))


def test_dense_after_pooling_reads_channels_last(rng: np.random.Generator) -> None:
    kernel, pooled = rng.normal(size=(6, 5 * 3 * 3)), rng.normal(size=(5, 3, 3))  # [out, C * P * P], [C, P, P]
    ours = pooled.transpose(1, 2, 0).ravel() @ dense_after_pooling(5)(kernel)
    np.testing.assert_allclose(ours, kernel @ pooled.ravel())


def translation(**targets: Target) -> Translation:
    return Translation(
        {"backbone": {"name": "resnet18"}},
        ("cell",),
        (1,),
        targets,
        implied={"n/moving_mean": 0.0, "n/moving_variance": 1.0},
    )


SHAPES = {"d/kernel": (3, 2), "n/moving_mean": (2,), "n/moving_variance": (2,)}


def test_convert_changes_layouts_and_fills_implied_variables() -> None:
    weight = np.arange(6, dtype=np.float64).reshape(2, 3)
    converted = convert({"w": weight}, translation(w=Target("d/kernel", dense)), SHAPES)
    assert converted.keys() == SHAPES.keys()
    assert all(values.dtype == np.float32 and values.flags.c_contiguous for values in converted.values())
    np.testing.assert_array_equal(converted["d/kernel"], weight.T)
    np.testing.assert_array_equal(converted["n/moving_variance"], [1, 1])


@pytest.mark.parametrize(
    ("shape", "target", "sentence"),
    [
        (
            (4, 3),
            Target("d/kernel", dense),
            r"tensor 'w' has shape \(4, 3\), laid out as \(3, 4\), which does not fit "
            r"'d/kernel' \(3, 2\) of a resnet18 Faster R-CNN",
        ),
        (
            (2, 3, 1),
            Target("d/kernel", convolution),
            r"tensor 'w' has shape \(2, 3, 1\), which does not fit 'd/kernel' \(3, 2\)",
        ),
        (
            (2, 10),
            Target("d/kernel", dense_after_pooling(4)),
            r"tensor 'w' has shape \(2, 10\), which does not fit 'd/kernel' \(3, 2\)",
        ),
        (
            (2, 3),
            Target("e/kernel", dense),
            r"tensor 'w' \(2, 3\) belongs to 'e/kernel', which a resnet18 Faster R-CNN does not have",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_both_shapes(
    shape: tuple[int, ...], target: Target, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        convert({"w": np.zeros(shape)}, translation(w=target), SHAPES)


def test_missing_tensors_are_named() -> None:
    with pytest.raises(
        UserError, match=r"tensors for 2 variables of a resnet18 Faster R-CNN are missing: d/kernel, e/bias"
    ):
        convert({}, translation(), {**SHAPES, "e/bias": (1,)})


@pytest.mark.parametrize(
    ("blocks", "third", "expected"),
    [
        ((2, 2, 2, 2), False, "resnet18"),
        ((3, 4, 6, 3), False, "resnet34"),
        ((3, 4, 6, 3), True, "resnet50"),
        ((3, 8, 36, 3), True, "resnet152"),
    ],
)
def test_the_resnet_is_inferred_from_the_names(blocks: tuple[int, ...], third: bool, expected: str) -> None:
    names = [
        f"s{stage}.{block}.c{'3' if third else ''}"
        for stage, count in enumerate(blocks, start=1)
        for block in range(count)
    ]
    assert resnet_name(names, BLOCK) == expected
    with pytest.raises(
        UserError, match=r"the stages of the backbone have \[.*\] blocks; expected a ResNet-18, -34, -50, -101 or -152"
    ):
        resnet_name([*names, f"s1.{blocks[0]}.c"], BLOCK)


def test_plain_does_not_change_vectors() -> None:
    np.testing.assert_array_equal(plain(np.arange(3)), [0, 1, 2])
