"""The two operations on our kernels: loads the library, registers the gradient, knows which kernels serve and why not."""

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


class Serving(NamedTuple):
    """What answers a call of kernel ``auto``.

    Attributes:
        library: the library's file, or None where the reference serves.
        cuda: whether the library has GPU kernels.
        reason: why the reference serves, one sentence; empty where a library does.
    """

    library: Path | None
    cuda: bool
    reason: str


_first_use = threading.RLock()  # functools.cache lets two threads both make a first call


@functools.cache
def _load(file: Path) -> ModuleType:
    return tf.load_op_library(str(file))


def load_what_is_built() -> None:
    """Load the library if it stands ready, without building: a SavedModel that holds the operations can then be loaded."""
    try:
        library = build.find(build.PREBUILT, build.default_cache())
    except build.BuildError:
        return
    if library:
        with _first_use:
            _load(library.file)


def serving() -> Serving:
    """Build if need be, once per process, and say what serves; the reason for a fallback also goes to stderr, once."""
    with _first_use:
        return _obtain()


@functools.cache
def _obtain() -> Serving:
    try:
        library = build.obtain()
        _load(library.file)
    except (build.BuildError, OSError, tf.errors.OpError) as error:
        return _fallback(f"the kernels could not be built: {error}")
    if tf.config.list_physical_devices("GPU") and not library.cuda:
        return _fallback("there is a GPU but no nvcc to build the GPU kernels with")
    return Serving(library.file, library.cuda, "")


def _fallback(reason: str) -> Serving:
    reason = " ".join(reason.split())
    print_message(f"falling back to the slower TensorFlow RoIAlign and NMS: {reason}")
    return Serving(None, False, reason)


def operations() -> Any:
    """The loaded operations. Raises UserError where there are none."""
    state = serving()
    if state.library is None:
        raise UserError(
            f"ops.kernel is 'compiled', but {state.reason}; mend that, or set ops.kernel to auto or reference"
        )
    return _load(state.library)


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
