"""``roi_align`` and ``nms`` in plain TensorFlow: the definition that the kernels are tested against, and the fallback.

Written for clarity, but with bounded memory: no tensor is larger than the pyramid, the result, or ``[B, N]``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# FPN paper, equation 1: a box of 224 x 224 pixels, ImageNet's training crop, belongs to P4.
CANONICAL_SIZE = 224.0
CANONICAL_LEVEL = 4


@functools.lru_cache
def level_starts(strides: tuple[int, ...], level_rule: str) -> tuple[float, ...]:
    """Smallest box size, the square root of the area in pixels, of each level but the first, exact in float32.

    The level of size s is ``floor(4 + log2(s / 224) + 1e-6)`` in torchvision and ``floor(4 + log2(s / 224 + 1e-8))`` in
    Detectron2, clipped to the existing levels. Both projects evaluate it in float32, so this finds by bisection the
    first float32 that reaches a level. Kernels compare sizes instead of computing logarithms, and agree on every bit.
    """

    def level(size: np.float32) -> float:
        ratio = size / np.float32(CANONICAL_SIZE)
        if level_rule == "torchvision":
            return float(np.floor(np.float32(CANONICAL_LEVEL) + np.log2(ratio) + np.float32(1e-6)))
        return float(np.floor(np.float32(CANONICAL_LEVEL) + np.log2(ratio + np.float32(1e-8))))

    starts = []
    for stride in strides[1:]:
        wanted = int(math.log2(stride))
        middle = np.float32(CANONICAL_SIZE * 2.0 ** (wanted - CANONICAL_LEVEL))
        # Positive float32 are ordered like their bits; the result is within a few thousand steps of the power of two.
        bits = int(middle.view(np.int32))
        low, high = bits - 4096, bits + 4096
        while high - low > 1:
            probe = (low + high) // 2
            low, high = (low, probe) if level(np.int32(probe).view(np.float32)) >= wanted else (probe, high)
        starts.append(float(np.int32(high).view(np.float32)))
    return tuple(starts)


class Pooling(NamedTuple):
    """Parameters of RoIAlign; the fields are arguments of :func:`frcnn.ops.roi_align`."""

    strides: tuple[int, ...]
    output_size: int
    sampling_ratio: int
    aligned: bool
    level_rule: str

    @property
    def scales(self) -> list[float]:
        """Feature pixels per canvas pixel of each level."""
        return [1.0 / stride for stride in self.strides]

    @property
    def starts(self) -> list[float]:
        """Smallest box size of each level but the first."""
        return list(level_starts(self.strides, self.level_rule))


# (running sum, sample's row in the bin, its column) -> sum with that sample of every bin
_Add = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class _Geometry(NamedTuple):
    """Sampling positions of each RoI; shape ``[N]`` unless noted."""

    valid: tf.Tensor  # bool
    base: tf.Tensor  # first row of the RoI's feature map in the flattened pyramid
    extent: tf.Tensor  # [N, 2] int32: height and width of that map
    start: tf.Tensor  # [N, 2] float32: (y, x) of the RoI in feature pixels
    bin: tf.Tensor  # [N, 2] float32: sides of a bin
    grid: tf.Tensor  # [N, 2] int32: samples per bin and axis


def roi_align(pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, box_image: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """See :func:`frcnn.ops.roi_align`."""
    box_image = tf.cast(box_image, tf.int32)
    dtype = pyramid[0].dtype
    channels = pyramid[0].shape[-1]
    output_size, sampling_ratio = pooling.output_size, pooling.sampling_ratio
    geometry = _geometry(pyramid, tf.cast(boxes, tf.float32), box_image, pooling)

    @tf.custom_gradient
    def pool(*levels: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        # One extra row, so that boxes of no image have a valid row to read from an empty batch.
        features = tf.concat(
            [*(tf.reshape(level, [-1, channels]) for level in levels), tf.zeros([1, channels], dtype)], axis=0
        )

        def add_sample(total: tf.Tensor, iy: tf.Tensor, ix: tf.Tensor) -> tf.Tensor:
            taps = _taps(geometry, iy, ix, output_size)
            (upper_left, upper_right), (lower_left, lower_right) = (
                [tf.cast(tf.gather(features, index), tf.float32) for index in side] for side in taps.rows
            )
            right, lower = taps.right[:, None, :, None], taps.lower[:, :, None, None]
            upper_row = upper_left * (1 - right) + upper_right * right
            lower_row = lower_left * (1 - right) + lower_right * right
            # Only binary sums: the graph optimizer replaces longer ones by AddN, whose order is not fixed.
            return total + (upper_row * (1 - lower) + lower_row * lower) * taps.share[..., None]

        empty = tf.zeros([tf.shape(geometry.base)[0], output_size, output_size, channels])
        pooled = _over_samples(geometry, sampling_ratio, add_sample, empty)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            upstream = tf.cast(upstream, tf.float32)

            def add_sample_gradient(total: tf.Tensor, iy: tf.Tensor, ix: tf.Tensor) -> tf.Tensor:
                taps = _taps(geometry, iy, ix, output_size)
                right, lower = taps.right[:, None, :, None], taps.lower[:, :, None, None]
                share = upstream * taps.share[..., None]
                for weight_y, side in zip((1 - lower, lower), taps.rows, strict=True):
                    for weight_x, index in zip((1 - right, right), side, strict=True):
                        total = tf.tensor_scatter_nd_add(total, index[..., None], share * weight_y * weight_x)
                return total

            total = _over_samples(geometry, sampling_ratio, add_sample_gradient, tf.zeros(tf.shape(features)))
            sizes = [tf.size(level) // tf.maximum(channels, 1) for level in levels]
            return [
                tf.cast(tf.reshape(part, tf.shape(level)), dtype)
                for part, level in zip(tf.split(total, [*sizes, 1]), levels, strict=False)
            ]

        return tf.cast(pooled, dtype), gradient

    result = pool(*pyramid)
    result.set_shape([boxes.shape[0], output_size, output_size, channels])
    return result


def _geometry(pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, box_image: tf.Tensor, pooling: Pooling) -> _Geometry:
    batch = tf.shape(pyramid[0])[0]
    extents = tf.stack([tf.shape(level)[1:3] for level in pyramid])
    images_rows = batch * extents[:, 0] * extents[:, 1]
    valid = tf.reduce_all(tf.math.is_finite(boxes), axis=-1) & (box_image >= 0) & (box_image < batch)
    boxes = tf.where(valid[:, None], boxes, 0.0)

    sides = tf.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    size = tf.sqrt(sides[:, 0] * sides[:, 1])
    level = tf.reduce_sum(
        tf.cast(size[:, None] >= tf.constant(pooling.starts, tf.float32, [1, len(pooling.starts)]), tf.int32), axis=1
    )

    extent = tf.where(valid[:, None], tf.gather(extents, level), 1)
    first = tf.gather(tf.cumsum(images_rows, exclusive=True), level)
    base = tf.where(valid, first + box_image * extent[:, 0] * extent[:, 1], 0)
    scale = tf.gather(tf.constant(pooling.scales, tf.float32), level)[:, None]
    corners = tf.gather(boxes, [1, 0, 3, 2], axis=1) * scale - (0.5 if pooling.aligned else 0.0)
    start, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not pooling.aligned:
        sides = tf.maximum(sides, 1.0)
    if pooling.sampling_ratio:
        grid = tf.fill(tf.shape(extent), pooling.sampling_ratio)
    else:
        wanted = tf.math.ceil(_divide(sides, pooling.output_size))
        grid = tf.cast(tf.clip_by_value(wanted, 0.0, tf.cast(extent, tf.float32)), tf.int32)
    return _Geometry(valid, base, extent, start, _divide(sides, pooling.output_size), grid)


def _divide(dividend: tf.Tensor, divisor: tf.Tensor | int) -> tf.Tensor:
    """A quotient that the graph optimizer does not replace by a product with a rounded reciprocal."""
    return tf.math.divide_no_nan(dividend, tf.cast(divisor, tf.float32))


def _over_samples(geometry: _Geometry, sampling_ratio: int, add: _Add, total: tf.Tensor) -> tf.Tensor:
    """Sum of ``add`` over the samples of a bin; over the largest grid if each RoI has its own."""
    if sampling_ratio:
        grid_y = grid_x = tf.constant(sampling_ratio)
    else:
        grid_y, grid_x = tf.unstack(tf.reduce_max(tf.pad(geometry.grid, [[0, 1], [0, 0]]), axis=0))
    shape = total.shape

    def body(step: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = add(total, step // grid_x, step % grid_x)
        total.set_shape(shape)
        return step + 1, total

    return tf.while_loop(lambda step, _: step < grid_y * grid_x, body, (tf.constant(0), total), parallel_iterations=1)[
        1
    ]


class _Taps(NamedTuple):
    """One sample of every bin: its four neighbors and their weights."""

    rows: list[list[tf.Tensor]]  # [upper, lower][left, right]: rows of the flattened pyramid, [N, P, P]
    lower: tf.Tensor  # [N, P]: weight of the lower neighbors
    right: tf.Tensor  # [N, P]: weight of the right neighbors
    share: tf.Tensor  # [N, P, P]: weight of the sample in its bin's mean; 0 if it does not count


def _taps(geometry: _Geometry, iy: tf.Tensor, ix: tf.Tensor, output_size: int) -> _Taps:
    """Sample (iy, ix) of every bin."""
    sample = tf.stack([iy, ix])
    grid = tf.cast(tf.maximum(geometry.grid, 1), tf.float32)
    bins = tf.range(output_size, dtype=tf.float32)[None, None, :]
    # [N, 2, P], in torchvision's order of operations
    within = _divide((tf.cast(sample, tf.float32) + 0.5) * geometry.bin, grid)
    # Differences, because the graph optimizer may reorder a sum of three terms.
    position = geometry.start[..., None] - (-bins) * geometry.bin[..., None] - -within[..., None]
    extent = tf.cast(geometry.extent, tf.float32)[..., None]
    exists = (sample < geometry.grid) & geometry.valid[:, None]
    counts = (position >= -1.0) & (position <= extent) & exists[..., None]
    share = tf.where(counts, 1.0 / grid[..., None], 0.0)

    position = tf.where(counts, tf.maximum(position, 0.0), 0.0)
    low = tf.minimum(tf.floor(position), extent - 1)
    high = tf.minimum(low + 1, extent - 1)
    # Beyond the center of the last pixel, both neighbors are the last pixel.
    fraction = tf.where(position >= extent - 1, 0.0, position - low)

    width = geometry.extent[:, 1, None]
    rows = [geometry.base[:, None] + tf.cast(y[:, 0], tf.int32) * width for y in (low, high)]
    columns = [tf.cast(x[:, 1], tf.int32) for x in (low, high)]
    index = [[row[:, :, None] + column[:, None, :] for column in columns] for row in rows]
    return _Taps(index, fraction[:, 0], fraction[:, 1], share[:, 0, :, None] * share[:, 1, None, :])


def round_down_to_float32(value: float) -> float:
    """Largest float32 not above ``value``: a float32 IoU exceeds both or neither.

    torchvision compares a float32 IoU with a double threshold; rounding 0.3 to nearest would keep IoUs of 3/10.
    """
    rounded = np.float32(value)
    return float(rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(-np.inf)))


def nms(
    boxes: tf.Tensor, scores: tf.Tensor, groups: tf.Tensor, *, iou_threshold: float, max_outputs: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """See :func:`frcnn.ops.nms`."""
    threshold = round_down_to_float32(iou_threshold)
    candidates = tf.shape(scores)[1]
    scores = tf.where(tf.math.is_nan(scores), -np.inf, scores)
    # top_k puts the lower index first among equal scores, as the contract requires.
    scores, order = tf.math.top_k(scores, k=candidates)
    boxes = tf.gather(boxes, order, batch_dims=1)
    groups = tf.gather(groups, order, batch_dims=1)
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    areas = (x2 - x1) * (y2 - y1)
    positions = tf.range(candidates)[None, :]

    def keep_best(step: tf.Tensor, alive: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        found = tf.reduce_any(alive, axis=1, keepdims=True)
        best = tf.argmax(alive, axis=1, output_type=tf.int32)[:, None]
        kept = tf.tensor_scatter_nd_update(
            kept, [[step]], tf.transpose(tf.where(found, tf.gather(order, best, batch_dims=1), -1))
        )
        u1, v1, u2, v2, area, group = (
            tf.gather(value, best, batch_dims=1) for value in (x1, y1, x2, y2, areas, groups)
        )
        width = tf.maximum(tf.minimum(x2, u2) - tf.maximum(x1, u1), 0.0)
        height = tf.maximum(tf.minimum(y2, v2) - tf.maximum(y1, v1), 0.0)
        intersection = width * height
        suppressed = (intersection / (area + areas - intersection) > threshold) & (groups == group)
        return step + 1, alive & ~suppressed & (positions != best), kept

    _, _, kept = tf.while_loop(
        lambda step, alive, _: (step < max_outputs) & tf.reduce_any(alive),
        keep_best,
        (tf.constant(0), scores > -np.inf, tf.fill([max_outputs, tf.shape(scores)[0]], -1)),
        parallel_iterations=1,
    )
    indices = tf.ensure_shape(tf.transpose(kept), [scores.shape[0], max_outputs])
    return indices, tf.reduce_sum(tf.cast(indices >= 0, tf.int32), axis=1)
