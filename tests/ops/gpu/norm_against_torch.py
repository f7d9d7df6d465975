"""Group norm with ReLU on a GPU against PyTorch: values and gradients at the size of training, and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from elementwise import DEVICE, DTYPES

GROUPS, EPSILON = 32, 1e-5
# The stem and P2 of an 800 x 1344 canvas, the smallest map of a backbone, and the features of RoIs.
TRAINING = ((2, 400, 672, 64), (2, 200, 336, 256), (2, 25, 42, 512), (1024, 7, 7, 256))
SHIM = ((2, 9, 11, 64), (3, 2, 2, 96))
# Largest relative error (ratio of norms) against the float64 result of the same inputs.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}


class Case:
    """Inputs of one size, for our kernels and, as a view ``[B, C, H, W]`` in channels_last, for PyTorch."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, relu: bool = True) -> None:
        batch, height, width, channels = shape
        generator = torch.Generator(DEVICE).manual_seed(channels)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, device=DEVICE, generator=generator)

        self.relu = relu
        self.head = np.int32([batch, height * width, channels, GROUPS, DTYPES[dtype], relu])
        self.inputs, self.upstream = (2 * normal(*shape) + 1).to(dtype), normal(*shape).to(dtype)
        self.gamma, self.beta = 1 + 0.2 * normal(channels), normal(channels)
        self.outputs, self.gradient = torch.empty_like(self.inputs), torch.empty_like(self.inputs)
        self.mean, self.rstd = (torch.empty([batch, GROUPS], device=DEVICE) for _ in range(2))
        self.affine_gradients = [torch.empty_like(self.gamma) for _ in range(2)]

    def forward(self, kernels: Any) -> None:
        inputs, outputs = (self.inputs, self.gamma, self.beta), (self.outputs, self.mean, self.rstd)
        kernels.group_norm(self.head, EPSILON, _pointers(inputs), _pointers(outputs))

    def backward(self, kernels: Any) -> None:
        inputs = (self.upstream, self.inputs, self.gamma, self.beta, self.mean, self.rstd)
        kernels.group_norm_gradient(self.head, _pointers(inputs), _pointers((self.gradient, *self.affine_gradients)))

    def leaves(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """PyTorch's inputs, gamma and beta."""
        tensors = (self.inputs.permute(0, 3, 1, 2), self.gamma, self.beta)
        return [tensor.to(dtype).detach().requires_grad_() for tensor in tensors]

    def theirs(self, inputs: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        outputs = torch.nn.functional.group_norm(inputs, GROUPS, *affine, EPSILON)
        return torch.nn.functional.relu(outputs) if self.relu else outputs


def _pointers(tensors: tuple[torch.Tensor, ...]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def check(kernels: Any, shapes: tuple[tuple[int, ...], ...] = TRAINING) -> dict[str, float]:
    """Relative errors by case; raises AssertionError above the tolerance."""
    errors = {}
    for shape in shapes:
        for dtype in DTYPES:
            for relu in (False, True):
                case = Case(shape, dtype, relu)
                leaves = case.leaves(torch.float64)
                before = torch.nn.functional.group_norm(leaves[0], GROUPS, *leaves[1:], EPSILON)
                outputs = torch.nn.functional.relu(before) if relu else before
                # Rounding decides whether the ReLU passes these.
                case.upstream[before.detach().abs().permute(0, 2, 3, 1) < 1e-5] = 0
                case.forward(kernels)
                case.backward(kernels)
                gradients = torch.autograd.grad(outputs, leaves, case.upstream.double().permute(0, 3, 1, 2))
                ours = [tensor.permute(0, 3, 1, 2) for tensor in (case.outputs, case.gradient)]
                pairs = zip([*ours, *case.affine_gradients], [outputs, *gradients], strict=True)
                error = max(_error(*pair) for pair in pairs)
                first = case.gradient.clone()
                case.backward(kernels)
                assert torch.equal(first, case.gradient), "the gradient of group norm differs between two calls"
                name = f"group_norm {list(shape)}, {str(dtype).removeprefix('torch.')}, {'ReLU' if relu else 'no ReLU'}"
                errors[name] = error
                print(f"  {name}: relative error {errors[name]:.1e}")
                assert errors[name] < TOLERANCES[dtype], f"{name}: {errors[name]} is above {TOLERANCES[dtype]}"
    return errors


def _error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error; NaN counts as infinite."""
    error = float((ours.double() - exact).norm() / exact.norm())
    return error if error == error else float("inf")


def times(kernels: Any, bandwidth: float, seconds_of: Callable[[Callable[[], object]], float]) -> list[dict[str, Any]]:
    """Rows of the table of ``against_torchvision.measure``; PyTorch's inputs are channels_last."""
    rows = []
    for shape in TRAINING:
        for dtype in DTYPES:
            case = Case(shape, dtype)
            name = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
            leaves = case.leaves(dtype)
            with torch.no_grad():
                theirs = seconds_of(lambda case=case, leaves=leaves: case.theirs(*leaves))
            graph = case.theirs(*leaves), leaves, case.upstream.permute(0, 3, 1, 2)
            gradient = seconds_of(lambda graph=graph: torch.autograd.grad(*graph, retain_graph=True))
            directions = (
                ("forward", lambda case=case: case.forward(kernels), theirs, 3),
                ("gradient", lambda case=case: case.backward(kernels), gradient, 5),
            )
            rows += [
                {
                    "case": f"group_norm {direction}, {name}",
                    "ours_us": 1e6 * seconds_of(work),
                    "torchvision_us": 1e6 * other,
                    "bound_us": 1e6 * passes * case.inputs.nbytes / bandwidth,
                }
                for direction, work, other, passes in directions
            ]
    return rows
