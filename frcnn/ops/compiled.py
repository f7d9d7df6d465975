"""The custom operations on the compiled kernels: loads them, and reports which kernels are active."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from frcnn.errors import UserError, print_message
from frcnn.ops import build
from frcnn.ops.gpu_code import BuildError
from frcnn.ops.reference import Pooling, round_down_to_float32

LIBRARY_REMEDY = "install g++ (Debian, Ubuntu: apt-get install g++) and run python -m frcnn.ops"
GPU_REMEDY = "pip install -e '.[gpu]' in frcnn's folder installs what compiles them; check it with python -m frcnn.ops"


class ActiveKernels(NamedTuple):
    """Implementation that ``kernel="auto"`` uses.

    Attributes:
        library: path of the compiled library; None if the reference is used.
        gpu_code: machine code for the GPUs of this process.
        reason: why the reference is used, one sentence; empty if the library is used.
        remedy: how to get compiled kernels; empty if the library is used.
    """

    library: Path | None
    gpu_code: tuple[Path, ...] = ()
    reason: str = ""
    remedy: str = ""

    @property
    def files(self) -> list[Path]:
        """What a process needs to load a SavedModel with the operations."""
        return [self.library, *self.gpu_code] if self.library else []

    @property
    def description(self) -> str:
        """One line for logs."""
        if not self.library:
            return f"the slower TensorFlow reference, because {self.reason}"
        return "compiled kernels for the CPU and the GPUs" if self.gpu_code else "compiled kernels for the CPU"


_first_use = threading.RLock()  # functools.cache does not serialize concurrent first calls


@functools.cache
def _load(file: Path) -> ModuleType:
    return tf.load_op_library(str(file))


def load_if_built() -> None:
    """Load the library if it exists, without building it, so that a SavedModel with the operations can be loaded."""
    # A library that cannot be loaded is reported by active_kernels.
    with contextlib.suppress(BuildError, OSError, tf.errors.OpError), _first_use:
        cache = build.default_cache()
        library = build.find(build.PREBUILT, cache)
        if library:
            _load(library)
            _use_gpu_code(library, cache)


def active_kernels() -> ActiveKernels:
    """The kernels of ``auto``; builds them at the first call and prints the reason of a fallback to stderr, once."""
    with _first_use:
        return _find_kernels()


@functools.cache
def _find_kernels() -> ActiveKernels:
    try:
        cache = build.default_cache()
        library = build.find_or_build(cache)
        operations = _load(library)
    except (BuildError, OSError, tf.errors.OpError) as error:
        return _fallback(f"the kernels could not be built: {error}", LIBRARY_REMEDY)
    try:
        gpu_code = build.add_gpu_code(library, build.visible_capabilities(), cache)
        if gpu_code:
            _use_gpu_code(library, cache)
            _try(operations, "GPU:0")
    except (BuildError, OSError, tf.errors.OpError) as error:
        return _fallback(f"the GPU kernels cannot be used: {error}", GPU_REMEDY)
    return ActiveKernels(library, tuple(gpu_code))


def _use_gpu_code(library: Path, folder: Path) -> None:
    """Make the library find machine code in ``folder`` as well, and register its GPU kernels if there is any."""
    ctypes.CDLL(str(library)).frcnn_use_gpu_code(str(folder).encode())


def _try(operations: ModuleType, device: str) -> None:
    """Run a kernel, so that machine code that the driver does not accept is noticed here and not within a model."""
    with tf.init_scope(), tf.device(device):  # eagerly, also while a function is traced
        boxes, scores = tf.constant([[[0.0, 0.0, 2.0, 2.0]]]), tf.constant([[1.0]])
        kept = operations.frcnn_nms(boxes, scores, tf.zeros([1, 1], tf.int32), iou_threshold=0.5, max_outputs=1)
        if kept.indices.numpy().tolist() != [[0]]:
            raise BuildError(f"wrong results on {device}")


def _fallback(reason: str, remedy: str) -> ActiveKernels:
    reason = " ".join(reason.split())
    print_message(f"falling back to slower TensorFlow operations: {reason}")
    if tf.config.get_visible_devices("GPU"):
        print_message(f"WARNING: training on the GPU will take several times as long. To fix this: {remedy}")
    return ActiveKernels(None, reason=reason, remedy=remedy)


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
