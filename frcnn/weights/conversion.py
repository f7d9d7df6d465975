"""From another framework's tensors to our variables: layouts, and an account of every tensor.

What differs between frameworks by name stands in ``torchvision.py`` and ``detectron2.py``; here is what they share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.annotations import few
from frcnn.errors import UserError
from frcnn.modeling.resnet import DEPTHS

Layout = Callable[[np.ndarray], np.ndarray]


class Target(NamedTuple):
    """Where a foreign tensor goes: the path of our variable, and how its values have to be laid out."""

    path: str
    layout: Layout


@dataclass(frozen=True)
class Translation:
    """How to read one foreign checkpoint.

    Attributes:
        options: nested configuration of the network that the file belongs to.
        class_names: of the labels 1..K; empty for a backbone alone.
        category_ids: one a class.
        targets: by foreign name.
        implied: our variables that the file leaves to a convention, by path: the value that fills them.
        settings: foreign tensors that became options, each with the option.
        left_out: foreign tensors that are not needed, each with the reason.
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


def sides_of(tensors: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """Shape of a tensor that shows how wide a network is.

    Raises:
        UserError: it has not ``axes`` axes, or nothing along one.
    """
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise UserError(f"tensor {name!r} has shape {shape}; expected {axes} axes, none of them empty")
    return shape


def plain(values: np.ndarray) -> np.ndarray:
    """Vectors stay as they are."""
    return values


def convolution(kernel: np.ndarray) -> np.ndarray:
    """``[out, in, h, w]`` to ``[h, w, in, out]``."""
    return kernel.transpose(2, 3, 1, 0)


def dense(kernel: np.ndarray) -> np.ndarray:
    """``[out, in]`` to ``[in, out]``."""
    return kernel.T


def dense_after_pooling(channels: int) -> Layout:
    """``[out, C * P * P]`` of features flattened channels first, to ``[P * P * C, out]`` of ours, flattened channels last."""

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
        shapes: of every variable that is to be filled, by path.

    Raises:
        UserError: a tensor of another shape than the variable it is for, with values that are not finite, or variables that
            nothing fills; names both sides.
    """
    converted: dict[str, np.ndarray] = {}
    for name, (path, layout) in translation.targets.items():
        try:
            values = layout(tensors[name])
        except (ValueError, IndexError):  # too few axes, or sides that cannot be laid out
            values = tensors[name]
        if path not in shapes:
            raise UserError(
                f"tensor {name!r} {tensors[name].shape} belongs to {path!r}, which a {_network(translation)} does not have"
            )
        if values.shape != shapes[path]:
            laid_out = f", laid out as {values.shape}" if values.shape != tensors[name].shape else ""
            raise UserError(
                f"tensor {name!r} has shape {tensors[name].shape}{laid_out}, which does not fit {path!r} {shapes[path]} "
                f"of a {_network(translation)}"
            )
        if not np.isfinite(values).all():
            raise UserError(
                f"tensor {name!r} holds values that are not finite; the file is damaged or its training had diverged"
            )
        converted[path] = np.ascontiguousarray(values, np.float32)
    for path, value in translation.implied.items():
        converted[path] = np.full(shapes[path], value, np.float32)
    missing = sorted(shapes.keys() - converted.keys())
    if missing:
        raise UserError(f"it has nothing for {len(missing)} tensors of a {_network(translation)}: {few(missing)}")
    return converted


def resnet_name(names: Iterable[str], block: str) -> str:
    """The ResNet whose blocks the names show.

    Args:
        block: regular expression with the groups ``stage`` (1..4 or 2..5) and ``block``, and ``conv3`` if the third convolution matched.
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
    raise UserError(f"its backbone has stages of {list(found)} blocks; expected a ResNet-18, -34, -50, -101 or -152")


def _network(translation: Translation) -> str:
    return translation.options["backbone"]["name"] + ("" if translation.backbone_only else " Faster R-CNN")
