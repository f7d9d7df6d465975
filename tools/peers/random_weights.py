"""Random weights by tensor name, the same for both sides of a comparison: ``frcnn parity weights, version 1``.

Every tensor is a function of (seed, name, shape) only. The scales keep activations near one through a hundred layers
and spread the class scores, so that an image has many detections and few of them are near a threshold or a tie.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np

# Scale of the last norm of a block, so that sums over blocks do not grow; the second one for blocks that a ResNet-50
# does not have.
RESIDUAL, DEEP_RESIDUAL = 0.3, 0.06
PIXEL_SCALE = 1 / 60  # of the stem of Detectron2's networks, whose inputs are in 0..255
# Standard deviations of the outputs, in units of 1 / sqrt(fan in).
PYRAMID, OBJECTNESS, DELTAS, CLASSES, BOXES = 0.5, 1.0, 0.15, 4.0, 1.0
BACKGROUND = 14.0  # added to the background's logit, so that most proposals are background

BLOCKS_OF_RESNET50 = 6  # in the stage that has more blocks in deeper networks
LAST_NORMS = (".bn3.", ".conv3.norm.")
GAINS = {
    "cls_logits": OBJECTNESS, "objectness_logits": OBJECTNESS,
    "anchor_deltas": DELTAS, "rpn.head.bbox_pred": DELTAS,
    "cls_score": CLASSES, "box_predictor.bbox_pred": BOXES, "fpn": PYRAMID,
}  # fmt: skip


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int, background: int) -> dict[str, np.ndarray]:
    """Tensors by name, float32 (counters: int64 zeros); ``background`` is the row of that class in the scores."""
    weights = {name: _random(name, tuple(shape), seed) for name, shape in shapes.items()}
    for name in weights:
        if name.endswith("cls_score.bias"):
            weights[name][background] += BACKGROUND
    return weights


def _random(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif kind == "weight" and len(shape) == 1:
        values = rng.uniform(0.8, 1.2, shape) * _norm_scale(name)
    elif kind == "weight":
        gain = next((value for part, value in GAINS.items() if part in name), np.sqrt(2.0))
        if "bottom_up.stem" in name:
            gain *= PIXEL_SCALE
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 2:
            # Features after a ReLU share a mean; removing its effect makes boxes differ in class.
            values -= values.mean(axis=1, keepdims=True)
        values *= gain / np.sqrt(np.prod(shape[1:]))
    else:
        values = rng.standard_normal(shape) * 0.1
    return np.asarray(values, np.float32)


def _norm_scale(name: str) -> float:
    if not any(part in name for part in LAST_NORMS):
        return 1.0
    block = re.search(r"(?:layer3|res4)\.(\d+)\.", name)
    return DEEP_RESIDUAL if block and int(block[1]) >= BLOCKS_OF_RESNET50 else RESIDUAL
