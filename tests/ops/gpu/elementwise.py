"""Time of bias, residual and ReLU, and of the gradient, against PyTorch's operations, at the size of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the host shim's memory is the CPU's
# Activations [rows, channels] of two images of 800 x 1344: of C2, C4 and a predictor of the RPN on P2.
SHAPES = ((2 * 200 * 336, 256), (2 * 50 * 84, 1024), (2 * 200 * 336, 12))
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def times(kernels: Any, bandwidth: float, seconds_of: Callable[[Callable[[], object]], float]) -> list[dict[str, Any]]:
    """Rows of the table of ``against_torchvision.measure``."""
    rows = []
    for dtype in DTYPES:
        for shape in SHAPES:
            size = shape[0] * shape[1] * dtype.itemsize
            for name, (ours, theirs, passes) in cases(kernels, dtype, shape).items():
                rows.append(
                    {
                        "case": f"{name}, {str(dtype).removeprefix('torch.')}, {shape[0]} x {shape[1]}",
                        "ours_us": 1e6 * seconds_of(ours),
                        "torchvision_us": 1e6 * seconds_of(theirs),
                        "bound_us": 1e6 * passes * size / bandwidth,
                    }
                )
    return rows


def cases(
    kernels: Any, dtype: torch.dtype, shape: tuple[int, int]
) -> dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], int]]:
    """Our call, PyTorch's, and how often the activations are read or written at least, by name."""
    inputs, residual, upstream = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(3))
    bias = torch.randn(shape[1], device=DEVICE).to(dtype)  # PyTorch's sums are in the dtype of the activations
    wide, positive, target = bias.float(), torch.relu(inputs), torch.empty_like(inputs)
    head = np.int32([DTYPES[dtype], *shape, True])

    def launch(operation: str, *tensors: torch.Tensor | None) -> torch.Tensor:
        kernels.bias_relu(operation, head, *(0 if tensor is None else tensor.data_ptr() for tensor in tensors))
        return target

    return {
        "bias_relu": (
            lambda: launch("bias_relu", inputs, wide, None, target),
            lambda: torch.relu(inputs + bias),
            2,
        ),
        "bias_relu with residual": (
            lambda: launch("bias_relu", inputs, wide, residual, target),
            lambda: torch.relu(inputs + bias + residual),
            3,
        ),
        "bias_relu, gradient": (
            lambda: launch("bias_relu_gradient", upstream, positive, target),
            lambda: torch.ops.aten.threshold_backward(upstream, positive, 0),
            3,
        ),
    }
