"""Conversion of another framework's tensors to our variables: layouts, checks, and what the importers share.

The names of each framework are in ``torchvision.py`` and ``detectron2.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.problems import first_few
from frcnn.errors import UserError
from frcnn.modeling.resnet import DEPTHS

Layout = Callable[[np.ndarray], np.ndarray]

# Our names of PyTorch's batch norm tensors.
NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


class Target(NamedTuple):
    """Destination of a foreign tensor: the path of our variable, and the conversion of its layout."""

    path: str
    layout: Layout


@dataclass(frozen=True)
class Translation:
    """How to read one foreign checkpoint.

    Attributes:
        options: nested configuration of the network in the file.
        class_names: of the labels 1..K; empty for a backbone only.
        category_ids: one per class.
        targets: by foreign name.
        implied: variables that are constant by convention and not in the file: their values by path.
        settings: foreign tensors that set options, each with the option.
        left_out: foreign tensors that are not used, each with the reason.
    """

    options: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    targets: dict[str, Target]
    implied: dict[str, float] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def backbone_only(self) -> bool:
        return not self.class_names


def shape_of(tensors: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """Shape of a tensor from which a width of the network is read.

    Raises:
        UserError: it does not have ``axes`` axes, or one is empty.
    """
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise UserError(f"tensor {name!r} has shape {shape}; expected {axes} axes, none of them empty")
    return shape


def plain(values: np.ndarray) -> np.ndarray:
    """Layout of vectors, which is the same in all frameworks."""
    return values


def convolution(kernel: np.ndarray) -> np.ndarray:
    """``[out, in, h, w]`` to ``[h, w, in, out]``."""
    return kernel.transpose(2, 3, 1, 0)


def dense(kernel: np.ndarray) -> np.ndarray:
    """``[out, in]`` to ``[in, out]``."""
    return kernel.T


def dense_after_pooling(channels: int) -> Layout:
    """``[out, C * P * P]`` (flattened channels first) to ``[P * P * C, out]`` (channels last)."""

    def layout(kernel: np.ndarray) -> np.ndarray:
        side = math.isqrt(kernel.shape[1] // channels)
        return kernel.reshape(len(kernel), channels, side, side).transpose(2, 3, 1, 0).reshape(-1, len(kernel))

    return layout


def convert(
    tensors: Mapping[str, np.ndarray], translation: Translation, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Our variables by path, float32, from the foreign tensors.

    Args:
        tensors: by foreign name.
        shapes: of every variable to fill, by path.

    Raises:
        UserError: a tensor does not have the shape of its variable or is not finite, or a variable has no tensor.
    """
    converted: dict[str, np.ndarray] = {}
    for name, (path, layout) in translation.targets.items():
        try:
            values = layout(tensors[name])
        except (ValueError, IndexError):  # wrong number of axes, or sizes that cannot be reshaped
            values = tensors[name]
        if path not in shapes:
            raise UserError(
                f"tensor {name!r} {tensors[name].shape} belongs to {path!r}, "
                f"which a {network_name(translation)} does not have"
            )
        if values.shape != shapes[path]:
            laid_out = f", laid out as {values.shape}" if values.shape != tensors[name].shape else ""
            raise UserError(
                f"tensor {name!r} has shape {tensors[name].shape}{laid_out}, which does not fit "
                f"{path!r} {shapes[path]} of a {network_name(translation)}"
            )
        if not np.isfinite(values).all():
            raise UserError(
                f"tensor {name!r} contains values that are not finite; the file is damaged or its training diverged"
            )
        converted[path] = np.ascontiguousarray(values, np.float32)
    for path, value in translation.implied.items():
        converted[path] = np.full(shapes[path], value, np.float32)
    missing = sorted(shapes.keys() - converted.keys())
    if missing:
        raise UserError(
            f"tensors for {len(missing)} variables of a {network_name(translation)} are missing: {first_few(missing)}"
        )
    return converted


def resnet_name(names: Iterable[str], block: str) -> str:
    """Name of the ResNet, from the blocks in its tensors' names.

    Args:
        block: regular expression with the groups ``stage`` (1..4 or 2..5) and ``block``, and ``conv3``, which matches
            the third convolution only.
    """
    depths: dict[int, int] = {}
    bottleneck = False
    for match in filter(None, (re.match(block, name) for name in names)):
        stage = int(match["stage"])
        depths[stage] = max(depths.get(stage, 0), int(match["block"]) + 1)
        bottleneck |= match["conv3"] is not None
    found = tuple(depths[stage] for stage in sorted(depths))
    for name, plan in DEPTHS.items():
        if plan == (found, bottleneck):
            return name
    raise UserError(
        f"the stages of the backbone have {list(found)} blocks; expected a ResNet-18, -34, -50, -101 or -152"
    )


def kernel_or_bias(layer: str, kind: str, layout: Layout, bias_layout: Layout = plain) -> Target:
    """Target of a tensor of a convolution or dense layer; ``kind`` is PyTorch's ``weight`` or ``bias``."""
    return Target(f"{layer}/kernel", layout) if kind == "weight" else Target(f"{layer}/bias", bias_layout)


def network_name(translation: Translation) -> str:
    """Description for messages, such as ``resnet50 Faster R-CNN``; a backbone only has just its name."""
    kind = "Cascade" if translation.options.get("roi_head", {}).get("cascade") else "Faster"
    return translation.options["backbone"]["name"] + ("" if translation.backbone_only else f" {kind} R-CNN")
