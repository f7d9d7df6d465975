"""The two operations as slow NumPy loops, written from the papers and torchvision's documentation."""

from __future__ import annotations

import math

import numpy as np


def level_of(box: np.ndarray, strides: tuple[int, ...], rule: str) -> int:
    """Index into the pyramid: FPN paper, equation 1, with the project's rounding guard."""
    size = math.sqrt(max(float(box[2]) - float(box[0]), 0.0) * max(float(box[3]) - float(box[1]), 0.0))
    if size == 0:
        return 0
    level = 4 + math.log2(size / 224) + 1e-6 if rule == "torchvision" else 4 + math.log2(size / 224 + 1e-8)
    first, last = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    return min(max(math.floor(level), first), last) - first


Tap = tuple[int, float]


def axis_samples(
    start: float, end: float, extent: int, bins: int, sampling_ratio: int, aligned: bool
) -> list[list[list[Tap]]]:
    """Taps ``(pixel, weight)`` of each sample of each bin along one axis; samples outside the map have no taps."""
    side = end - start if aligned else max(end - start, 1.0)
    grid = sampling_ratio or min(max(math.ceil(side / bins), 0), extent)
    table = []
    for b in range(bins):
        samples = []
        for i in range(grid):
            position = start + side / bins * (b + (i + 0.5) / grid)
            if position < -1 or position > extent:
                samples.append([])
            elif position >= extent - 1:
                samples.append([(extent - 1, 1.0)])
            else:
                low = math.floor(max(position, 0.0))
                fraction = max(position, 0.0) - low
                samples.append([(low, 1 - fraction), (low + 1, fraction)])
        table.append(samples)
    return table


def roi_align(pyramid, boxes, box_image, *, strides, output_size, sampling_ratio, aligned, level_rule):
    """``[N, P, P, C]`` float64 and a function from upstream gradients to the pyramid's gradients."""
    pyramid = [np.asarray(level, np.float64) for level in pyramid]
    result = np.zeros((len(boxes), output_size, output_size, pyramid[0].shape[-1]))
    taps = []
    for n, (box, image) in enumerate(zip(boxes, box_image, strict=True)):
        if not np.isfinite(box).all() or not 0 <= image < len(pyramid[0]):
            continue
        level = level_of(box, strides, level_rule)
        height, width = pyramid[level].shape[1:3]
        x1, y1, x2, y2 = (np.float32(value) / np.float32(strides[level]) - np.float32(0.5 * aligned) for value in box)
        rows = axis_samples(float(y1), float(y2), height, output_size, sampling_ratio, aligned)
        columns = axis_samples(float(x1), float(x2), width, output_size, sampling_ratio, aligned)
        for p in range(output_size):
            for q in range(output_size):
                count = max(len(rows[p]) * len(columns[q]), 1)
                for row in rows[p]:
                    for column in columns[q]:
                        for y, weight_y in row:
                            for x, weight_x in column:
                                taps.append((n, p, q, level, image, y, x, weight_y * weight_x / count))
    for n, p, q, level, image, y, x, weight in taps:
        result[n, p, q] += weight * pyramid[level][image, y, x]

    def gradient(upstream):
        total = [np.zeros_like(level) for level in pyramid]
        for n, p, q, level, image, y, x, weight in taps:
            total[level][image, y, x] += weight * np.asarray(upstream[n, p, q], np.float64)
        return total

    return result, gradient


def iou(box: np.ndarray, other: np.ndarray) -> np.float32:
    """In float32 with torchvision's order of operations, for the last bit decides at the threshold."""
    zero = np.float32(0)
    width = max(zero, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(zero, min(box[3], other[3]) - max(box[1], other[1]))
    intersection = width * height
    union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - intersection
    return intersection / union if union != 0 else np.float32(np.nan)


def nms(boxes, scores, groups, *, iou_threshold, max_outputs):
    """Kept indices of one image, best first."""
    boxes = np.asarray(boxes, np.float32)
    candidates = sorted((i for i in range(len(boxes)) if scores[i] > -np.inf), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in candidates:
        if len(kept) == max_outputs:
            break
        # float() because torchvision compares its float32 quotient with a double
        if not any(groups[i] == groups[k] and float(iou(boxes[k], boxes[i])) > iou_threshold for k in kept):
            kept.append(i)
    return kept
