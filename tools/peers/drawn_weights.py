"""Weights that both sides of a comparison fill by tensor name: ``frcnn parity weights, version 1``.

Every tensor is a function of (seed, name, shape) alone. The scales keep activations near one through a hundred layers, and
make the class scores spread, so that a picture has many detections and few of them are near a threshold or a tie.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np

RESIDUAL, DEEP_RESIDUAL = (
    0.3,
    0.06,
)  # of the last norm of a block, so that sums over blocks do not grow; the second beyond a ResNet-50's
STEM_OF_PIXELS = 1 / 60  # Detectron2's networks see 0..255 without a division
PYRAMID, OBJECTNESS, DELTAS, CLASSES, BOXES = (
    0.5,
    1.0,
    0.15,
    4.0,
    1.0,
)  # spread of the outputs, in units of 1 / sqrt(fan in)
BACKGROUND = 14.0  # added to the background's logit, so that most proposals are none of the classes

BLOCKS_OF_RESNET50 = 6  # in the stage that deeper networks lengthen
LAST_NORMS = (".bn3.", ".conv3.norm.")
GAINS = {"cls_logits": OBJECTNESS, "objectness_logits": OBJECTNESS, "anchor_deltas": DELTAS, "rpn.head.bbox_pred": DELTAS,
         "cls_score": CLASSES, "box_predictor.bbox_pred": BOXES, "fpn": PYRAMID}  # fmt: skip


def draw_weights(shapes: Mapping[str, tuple[int, ...]], seed: int, background: int) -> dict[str, np.ndarray]:
    """Tensors of the given names and shapes, float32 (counters: int64 zeros); ``background`` is that class's row."""
    weights = {name: _draw(name, tuple(shape), seed) for name, shape in shapes.items()}
    for name in weights:
        if name.endswith("cls_score.bias"):
            weights[name][background] += BACKGROUND
    return weights


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
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
            gain *= STEM_OF_PIXELS
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 2:
            # Features behind a ReLU share a mean; without it in the way, boxes differ in class.
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
