"""The two operations that TensorFlow lacks: :func:`roi_align` over a pyramid and :func:`nms` over a batch.

This file is the contract and the choice of kernel. ``reference.py`` defines the results in plain TensorFlow; ``compiled.py``
calls our kernels, which ``build.py`` compiles at the first use where nothing was built ahead. Importing this module loads
a library that is already built, so that a SavedModel with the operations in it can be loaded, but builds none.

The operations run in eager code and in ``tf.function``, not under XLA: layers that use them set ``supports_jit = False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Literal

import tensorflow as tf

from frcnn.ops import compiled, reference

Kernel = Literal["auto", "compiled", "reference"]
LevelRule = Literal["torchvision", "detectron2"]


def roi_align(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    box_image: tf.Tensor,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    level_rule: LevelRule,
    kernel: Kernel = "auto",
) -> tf.Tensor:
    """Average of bilinear samples in each bin of each box, from the pyramid level that fits the box (Mask R-CNN, FPN).

    Args:
        pyramid: L tensors ``[B, Hl, Wl, C]``, float32, bfloat16 or float16; sums are float32.
        boxes: ``[N, 4]`` float32, ``(x1, y1, x2, y2)`` in canvas pixels.
        box_image: ``[N]`` int32, each box's image; boxes of an image outside ``[0, B)`` give zeros, and so do boxes
            with a coordinate that is not finite.
        strides: canvas pixels per feature pixel of each level, powers of two, each twice the one before.
        output_size: P, bins per side.
        sampling_ratio: samples per bin and axis; 0 takes one per feature pixel of the bin, rounded up, and at most as
            many as the level has pixels on that axis.
        aligned: shift boxes by half a feature pixel (Detectron2); otherwise box sides are at least one feature pixel.
        level_rule: where the rounding guard of the level formula stands; see :func:`reference.level_starts`.
        kernel: ``compiled``, ``reference`` or ``auto``, which is the first that this machine can have.

    Returns:
        ``[N, P, P, C]`` in the pyramid's dtype. Differentiable in the pyramid, not in the boxes.
    """
    pooling = reference.Pooling(tuple(strides), output_size, sampling_ratio, aligned, level_rule)
    return _implementation(kernel).roi_align(pyramid, boxes, box_image, pooling)


def nms(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    groups: tf.Tensor,
    *,
    iou_threshold: float,
    max_outputs: int,
    kernel: Kernel = "auto",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Greedy non-maximum suppression within the groups of each image of a batch.

    A box is dropped when a better box of its image and group that was itself kept overlaps it with an IoU strictly
    above the threshold. The boxes that are kept come out in order of score, equal scores in order of index, over all
    groups together, and the first ``max_outputs`` of them count. The same boxes as ``torchvision.ops.batched_nms``.

    Args:
        boxes: ``[B, N, 4]`` float32, ``(x1, y1, x2, y2)``.
        scores: ``[B, N]`` float32; entries of ``-inf`` or NaN are padding: they neither come out nor drop others.
        groups: ``[B, N]`` int32, any values: pyramid level or class.
        iou_threshold: in [0, 1].
        max_outputs: M, static.
        kernel: ``compiled``, ``reference`` or ``auto``, which is the first that this machine can have.

    Returns:
        ``indices [B, M]`` int32 into N, padded with -1, and ``counts [B]`` int32. Not differentiable.
    """
    return _implementation(kernel).nms(boxes, scores, groups, iou_threshold=iou_threshold, max_outputs=max_outputs)


def _implementation(kernel: Kernel) -> ModuleType:
    if kernel == "auto":
        return compiled if compiled.serving().library else reference
    return compiled if kernel == "compiled" else reference


compiled.load_what_is_built()
