"""The operations that TensorFlow lacks: :func:`roi_align` over a pyramid, :func:`nms` over a batch, a fast
:func:`group_norm`, :func:`bias_relu` and :func:`resize_to_canvas`, and :func:`channel_scale`, :func:`global_norm` and
:func:`update` of many variables at once.

This module is the public interface and selects the implementation: ``reference.py`` defines the results in plain
TensorFlow, ``compiled.py`` calls the C++ and CUDA kernels, which ``build.py`` compiles at first use. Importing this
module loads a library that is already built, so that a SavedModel that contains the operations can be loaded; it does
not build one.

The operations run in eager code and in ``tf.function``, not under XLA: layers that use them set
``supports_jit = False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Literal

import numpy as np
import tensorflow as tf

from frcnn.ops import compiled, reference, resize
from frcnn.ops.bias_relu import fused as fused_bias_relu
from frcnn.ops.bias_relu import reference as reference_bias_relu
from frcnn.ops.channel_scale import fused as fused_channel_scale
from frcnn.ops.channel_scale import reference as reference_channel_scale
from frcnn.ops.group_norm import fused as fused_norm
from frcnn.ops.group_norm import reference as reference_norm
from frcnn.ops.resize import Placement as Placement
from frcnn.ops.resize import ResizeFilter
from frcnn.ops.update import Rule as Rule
from frcnn.ops.update import Scalars as Scalars
from frcnn.ops.update import Variables as Variables
from frcnn.ops.update import fused as fused_update
from frcnn.ops.update import fused_norm as fused_global_norm
from frcnn.ops.update import reference as reference_update

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
        level_rule: position of the rounding guard in the level formula; see :func:`reference.level_starts`.
        kernel: ``compiled``, ``reference``, or ``auto``: compiled if available on this machine, else reference.

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

    A box is suppressed if a kept box of the same image and group with a higher score has an IoU with it strictly above
    the threshold. The first ``max_outputs`` kept boxes of all groups are returned in order of score, equal scores in
    order of index. The result equals that of ``torchvision.ops.batched_nms``.

    Args:
        boxes: ``[B, N, 4]`` float32, ``(x1, y1, x2, y2)``.
        scores: ``[B, N]`` float32; entries of ``-inf`` or NaN are padding: they are not returned and do
            not suppress others.
        groups: ``[B, N]`` int32, any values: pyramid level or class.
        iou_threshold: in [0, 1].
        max_outputs: M, static.
        kernel: ``compiled``, ``reference``, or ``auto``: compiled if available on this machine, else reference.

    Returns:
        ``indices [B, M]`` int32 into N, padded with -1, and ``counts [B]`` int32. Not differentiable.
    """
    return _implementation(kernel).nms(boxes, scores, groups, iou_threshold=iou_threshold, max_outputs=max_outputs)


def group_norm(
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *,
    groups: int,
    epsilon: float,
    relu: bool,
    kernel: Kernel = "auto",
) -> tf.Tensor:
    """Group norm (Wu & He 2018), then ReLU if ``relu``.

    Args:
        inputs: ``[B, H, W, C]``, float32, bfloat16 or float16; statistics are float32.
        gamma, beta: ``[C]`` float32.
        groups: number of groups, which divides C; a group has consecutive channels.
        epsilon: added to the variance.
        kernel: as for :func:`roi_align`.

    Returns:
        Shape and dtype of the inputs. Differentiable in all three tensors.
    """
    implementation = fused_norm if _implementation(kernel) is compiled else reference_norm
    return implementation(inputs, gamma, beta, groups, epsilon, relu)


def bias_relu(
    inputs: tf.Tensor,
    bias: tf.Tensor,
    residual: tf.Tensor | None = None,
    *,
    relu: bool = True,
    kernel: Kernel = "auto",
) -> tf.Tensor:
    """``inputs + bias``, plus ``residual`` if there is one, then ReLU if ``relu``.

    Args:
        inputs: ``[..., C]`` of at least two axes, float32, bfloat16 or float16.
        bias: ``[C]`` float32.
        residual: shape and dtype of the inputs.
        kernel: as for :func:`roi_align`. The compiled kernel, which rounds once, is for GPUs: elsewhere, all values
            select the reference, whose operations TensorFlow fuses with a convolution. So does ``auto`` in float32,
            where TensorFlow trains in NCHW and would transpose around the kernel. A graph that was traced for a GPU
            runs on a CPU as well.

    Returns:
        Shape and dtype of the inputs. Differentiable in all tensors.
    """
    on_gpu = kernel != "reference" and uses_gpu() and (kernel == "compiled" or inputs.dtype != tf.float32)
    implementation = fused_bias_relu if on_gpu and _implementation(kernel) is compiled else reference_bias_relu
    return implementation(inputs, bias, residual, relu)


def resize_to_canvas(
    pixels: tf.Tensor,
    placement: Placement,
    *,
    method: ResizeFilter,
    flips: tf.Tensor | None = None,
    extent: tf.Tensor | None = None,
    reverse_channels: bool = False,
    kernel: Kernel = "auto",
) -> tf.Tensor:
    """Flip an image, resize it, crop it to at most the canvas, and pad it with zeros right and bottom; on the CPU.

    Args:
        pixels: ``[h, w, 3]`` uint8.
        method: ``bilinear`` as torch's ``interpolate`` without antialiasing, rounded to uint8 once, or ``pillow``,
            antialiased as Pillow's BILINEAR.
        flips: ``[2]`` bool: vertical, horizontal; None: neither.
        extent: ``[2]`` float32: height and width of what is resized, from the upper left corner, with fractions of a
            pixel (an image decoded at half its size may end within a pixel); None: the whole image. With ``bilinear``
            always the whole image.
        reverse_channels: RGB to BGR.
        kernel: as for :func:`roi_align`; the pixels of both implementations are the same.

    Returns:
        ``[H, W, 3]`` uint8. Not differentiable.
    """
    implementation = resize.fused if _implementation(kernel) is compiled else resize.reference
    with tf.device("CPU:0"):
        flips = tf.constant([False, False]) if flips is None else flips
        extent = tf.cast(tf.shape(pixels)[:2], tf.float32) if extent is None else extent
        return implementation(pixels, placement, flips, extent, method, reverse_channels)


def resize_and_normalize(
    pixels: tf.Tensor,
    placement: Placement,
    *,
    mean: np.ndarray,
    inverse_std: np.ndarray,
    reverse_channels: bool = False,
    kernel: Kernel = "auto",
) -> tf.Tensor:
    """The bilinear :func:`resize_to_canvas` without rounding, normalized, zero in the padding; on the CPU.

    Args:
        pixels: ``[h, w, 3]`` uint8.
        mean, inverse_std: ``[3]`` float32, in the order of the results' channels.
        reverse_channels: RGB to BGR.
        kernel: as for :func:`roi_align`; the values of both implementations are the same.

    Returns:
        ``[H, W, 3]`` float32, ``(pixel - mean) * inverse_std``. Not differentiable.
    """
    implementation = resize.normalized_fused if _implementation(kernel) is compiled else resize.normalized_reference
    with tf.device("CPU:0"):
        return implementation(pixels, placement, mean, inverse_std, reverse_channels)


def channel_scale(
    tensors: Sequence[tf.Tensor], scales: Sequence[tf.Tensor], dtype: tf.DType, kernel: Kernel = "auto"
) -> list[tf.Tensor]:
    """Each of several tensors times a factor per channel, rounded once to ``dtype``.

    Args:
        tensors: ``[..., C]`` float32.
        scales: ``[C]`` float32 of each tensor.
        dtype: float32, bfloat16 or float16.
        kernel: as for :func:`roi_align`.

    Returns:
        Tensors of the same shapes. Differentiable in ``tensors`` only.
    """
    implementation = fused_channel_scale if _implementation(kernel) is compiled else reference_channel_scale
    return implementation(tensors, [tf.stop_gradient(scale) for scale in scales], tf.as_dtype(dtype))


def global_norm(tensors: Sequence[tf.Tensor], kernel: Kernel = "auto") -> tf.Tensor:
    """Root of the sum of squares of all elements of float32 tensors, a scalar; ``kernel`` as for :func:`roi_align`."""
    if _implementation(kernel) is compiled:
        return fused_global_norm(tensors)
    return tf.linalg.global_norm(list(tensors))


def update(rule: Rule, variables: Variables, scalars: Scalars, kernel: Kernel = "auto") -> None:
    """Update all variables by a rule, in place.

    ``sgd`` subtracts ``step = rate * rate_factor * (scale * gradient + decay * weight)``. ``momentum`` adds
    ``velocity = momentum * velocity - step`` and ``nesterov`` ``momentum * velocity - step`` after it (Keras's SGD;
    with a constant rate, PyTorch's). ``adamw`` is Adam with decoupled decay (Loshchilov & Hutter 2019). ``average`` is
    ``rate * average + (1 - rate) * weight``.

    Args:
        kernel: as for :func:`roi_align`.
    """
    (fused_update if _implementation(kernel) is compiled else reference_update)(rule, variables, scalars)


def uses_gpu() -> bool:
    """Whether TensorFlow uses a GPU in this process."""
    return bool(tf.config.get_visible_devices("GPU"))


def describe_kernels(kernel: Kernel) -> str:
    """One line for logs: the implementation that ``kernel`` selects on this machine."""
    if kernel != "reference":
        return f"custom operations: {compiled.active_kernels().description}"
    slow = "; this is slow on a GPU, use ops.kernel=auto" if uses_gpu() else ""
    return f"custom operations: the TensorFlow reference, as ops.kernel says{slow}"


def _implementation(kernel: Kernel) -> ModuleType:
    if kernel == "auto":
        return compiled if compiled.active_kernels().library else reference
    return compiled if kernel == "compiled" else reference


compiled.load_if_built()
