"""The two operations on the compiled kernels: loads the library, registers the gradient, reports which kernels are
active.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from frcnn.errors import UserError, print_message
from frcnn.ops import build
from frcnn.ops.reference import Pooling, round_down_to_float32


class ActiveKernels(NamedTuple):
    """Implementation that ``kernel="auto"`` uses.

    Attributes:
        library: path of the compiled library; None if the reference is used.
        cuda: whether the library contains GPU kernels.
        reason: why the reference is used, one sentence; empty if the library is used.
    """

    library: Path | None
    cuda: bool
    reason: str


_first_use = threading.RLock()  # functools.cache does not serialize concurrent first calls


@functools.cache
def _load(file: Path) -> ModuleType:
    return tf.load_op_library(str(file))


def load_if_built() -> None:
    """Load the library if it exists, without building it, so that a SavedModel with the operations can be loaded."""
    try:
        library = build.find(build.PREBUILT, build.default_cache())
    except build.BuildError:
        return
    if library:
        with _first_use:
            _load(library.file)


def active_kernels() -> ActiveKernels:
    """The kernels of ``auto``; builds them at the first call and prints the reason of a fallback to stderr, once."""
    with _first_use:
        return _find_kernels()


@functools.cache
def _find_kernels() -> ActiveKernels:
    try:
        library = build.find_or_build()
        _load(library.file)
    except (build.BuildError, OSError, tf.errors.OpError) as error:
        return _fallback(f"the kernels could not be built: {error}")
    if tf.config.list_physical_devices("GPU") and not library.cuda:
        return _fallback("this machine has a GPU but no nvcc to build the GPU kernels")
    return ActiveKernels(library.file, library.cuda, "")


def _fallback(reason: str) -> ActiveKernels:
    reason = " ".join(reason.split())
    print_message(f"falling back to the slower TensorFlow RoIAlign and NMS: {reason}")
    return ActiveKernels(None, False, reason)


def operations() -> Any:
    """The loaded operations. Raises UserError if they are not available."""
    active = active_kernels()
    if active.library is None:
        raise UserError(
            f"ops.kernel is 'compiled', but {active.reason}; fix this, or set ops.kernel to auto or reference"
        )
    return _load(active.library)


def roi_align(pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, box_image: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """See :func:`frcnn.ops.roi_align`."""
    return operations().frcnn_roi_align(
        pyramid=list(pyramid),
        boxes=boxes,
        box_image=box_image,
        scales=pooling.scales,
        starts=pooling.starts,
        output_size=pooling.output_size,
        sampling_ratio=pooling.sampling_ratio,
        aligned=pooling.aligned,
    )


@tf.RegisterGradient("FrcnnRoiAlign")
def _roi_align_gradient(op: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    levels = op.get_attr("L")
    gradients = operations().frcnn_roi_align_grad(
        pyramid=list(op.inputs[:levels]),
        boxes=op.inputs[levels],
        box_image=op.inputs[levels + 1],
        upstream=upstream,
        **{name: op.get_attr(name) for name in ("scales", "starts", "output_size", "sampling_ratio", "aligned")},
    )
    return [*gradients, None, None]


tf.no_gradient("FrcnnNms")


def nms(
    boxes: tf.Tensor, scores: tf.Tensor, groups: tf.Tensor, *, iou_threshold: float, max_outputs: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """See :func:`frcnn.ops.nms`."""
    result = operations().frcnn_nms(
        boxes=boxes,
        scores=scores,
        groups=groups,
        iou_threshold=round_down_to_float32(iou_threshold),
        max_outputs=max_outputs,
    )
    return result.indices, result.counts
