"""Capture the outputs of modules of a PyTorch network in a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def capture(modules: Mapping[str, torch.nn.Module]) -> Iterator[dict[str, Any]]:
    """Yield a dict that receives the last output of each module, by name, while the block runs."""
    outputs: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
        for name, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def capture_all(module: torch.nn.Module) -> Iterator[list[Any]]:
    """Yield a list that receives every output of a module while the block runs."""
    outputs: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """``[B, C, H, W]`` to a contiguous array ``[B, H, W, C]``."""
    return np.ascontiguousarray(tensor.detach().permute(0, 2, 3, 1).numpy())
