"""Translation of torchvision's detectors (``fasterrcnn_resnet50_fpn``, ``…_v2``) and classification ResNets.

The network is inferred from names and shapes of the tensors, so other depths and classes than the published ones work.
Names follow torchvision 0.29.1: ``models/resnet.py``, ``models/detection/{faster_rcnn,rpn}.py``,
``ops/feature_pyramid_network.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from frcnn.errors import UserError
from frcnn.weights.coco_classes import LARGEST_ID, classes_of
from frcnn.weights.conversion import (
    NORM_VARIABLES,
    Target,
    Translation,
    convolution,
    dense,
    dense_after_pooling,
    kernel_or_bias,
    plain,
    resnet_name,
    shape_of,
)

COUNTER = "num_batches_tracked"

BLOCK = (
    r"(?:backbone\.body\.)?layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?:conv(?:(?P<conv3>3)|[12])|downsample\.0)\.weight$"
)

STEM = re.compile(r"(?:backbone\.body\.)?(?P<part>conv1|bn1)\.(?P<kind>\w+)")
IN_BLOCK = re.compile(
    r"(?:backbone\.body\.)?layer(?P<stage>[1-4])\.(?P<block>\d+)\."
    r"(?P<part>conv|bn|downsample\.)(?P<number>\d)\.(?P<kind>\w+)"
)
# The convolution is part 0, its norm part 1; checkpoints from before torchvision 0.13 do not number the parts.
PYRAMID = re.compile(
    r"backbone\.fpn\.(?P<layer>inner|layer)_blocks\.(?P<level>[0-3])(?:\.(?P<part>[01]))?\.(?P<kind>\w+)"
)
RPN_CONV = re.compile(r"rpn\.head\.conv(?:\.(?P<number>\d+)\.0)?\.(?P<kind>\w+)")
RPN_PREDICTOR = re.compile(r"rpn\.head\.(?P<part>cls_logits|bbox_pred)\.(?P<kind>\w+)")
HEAD_CONV = re.compile(r"roi_heads\.box_head\.(?P<number>\d+)\.(?P<part>[01])\.(?P<kind>\w+)")
HEAD_DENSE = re.compile(r"roi_heads\.box_head\.(?:fc)?(?P<number>\d+)\.(?P<kind>weight|bias)")
PREDICTOR = re.compile(r"roi_heads\.box_predictor\.(?P<part>cls_score|bbox_pred)\.(?P<kind>\w+)")

# Their shapes give the widths of the network and the number of classes.
LOGITS, SCORES = "rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight"

CLASSIFIER = "classifier of ImageNet's classes"
COUNTERS = "counter of training batches, not needed"
UNKNOWN = "not part of a Faster R-CNN"


def translate(tensors: Mapping[str, np.ndarray]) -> Translation:
    """How to read a torchvision checkpoint.

    Raises:
        UserError: it is neither a ResNet nor a Faster R-CNN with a ResNet.
    """
    detector = any(name.startswith("backbone.body.") for name in tensors)
    if not detector and "layer1.0.conv1.weight" not in tensors:
        raise UserError(
            "not a supported network of torchvision: it has neither 'backbone.body.…' (a detector) nor "
            f"'layer1.0.conv1.weight' (a ResNet); its first tensor is {min(tensors)!r}"
        )
    for name in (LOGITS, SCORES) if detector else ():
        if name not in tensors:
            raise UserError(f"it has the backbone of a detector but no {name!r}; expected a Faster R-CNN")
    targets: dict[str, Target] = {}
    left_out: dict[str, str] = {}
    channels = shape_of(tensors, LOGITS, 4)[1] if detector else 0
    first_dense = _first_dense(tensors)
    for name in tensors:
        target = _target(name, channels, first_dense)
        if target:
            targets[name] = target
        else:
            left_out[name] = _reason_left_out(name)
    names, ids = classes_of(shape_of(tensors, SCORES, 2)[0] - 1) if detector else ((), ())
    return Translation(_options(tensors, detector, len(names)), names, ids, targets, left_out=left_out)


def _options(tensors: Mapping[str, np.ndarray], detector: bool, classes: int) -> dict[str, Any]:
    """Options that differ from the defaults, which are those of torchvision's v1."""
    backbone: dict[str, Any] = {"name": resnet_name(tensors, BLOCK), "freeze": 2}
    if not detector:
        return {"backbone": backbone}
    second = "backbone.fpn.inner_blocks.0.1.weight" in tensors
    if second:
        backbone["norm"] = "bn"
    elif classes == LARGEST_ID:
        backbone["norm_eps"] = 0.0  # as torchvision runs its published COCO weights (overwrite_eps)
    convs = len([name for name in tensors if re.fullmatch(r"roi_heads\.box_head\.\d+\.0\.weight", name)])
    layers = len([name for name in tensors if (match := HEAD_DENSE.fullmatch(name)) and match["kind"] == "weight"])
    return {
        "backbone": backbone,
        "fpn": {"channels": tensors[LOGITS].shape[1], "norm": "bn" if second else "none"},
        "rpn": {"convs": len([name for name in tensors if RPN_CONV.fullmatch(name) and name.endswith("weight")])},
        "roi_head": {"convs": convs, "fc_layers": layers, "fc_channels": tensors[SCORES].shape[1]},
    }


def _first_dense(tensors: Mapping[str, np.ndarray]) -> int:
    """Number of the first fully connected layer: 6 (fc6), or its index after the convolutions and the flattening."""
    return min((int(match["number"]) for match in map(HEAD_DENSE.fullmatch, tensors) if match), default=0)


def _reason_left_out(name: str) -> str:
    if name.endswith(COUNTER):
        return COUNTERS
    return CLASSIFIER if name in ("fc.weight", "fc.bias") else UNKNOWN


def _target(name: str, channels: int, first_dense: int) -> Target | None:
    """Our variable for a foreign name, or None."""
    if name.endswith(COUNTER):
        return None
    if match := STEM.fullmatch(name):
        return _conv_or_norm("backbone/stem", match["part"] == "conv1", match["kind"])
    if match := IN_BLOCK.fullmatch(name):
        block = f"backbone/stage{int(match['stage']) + 1}_block{int(match['block']) + 1}"
        if match["part"] == "downsample.":
            return _conv_or_norm(f"{block}/shortcut", match["number"] == "0", match["kind"])
        return _conv_or_norm(f"{block}/conv{match['number']}", match["part"] == "conv", match["kind"])
    if match := PYRAMID.fullmatch(name):
        layer = "lateral" if match["layer"] == "inner" else "output"
        return _conv_or_norm(f"fpn/{layer}{int(match['level']) + 2}", match["part"] != "1", match["kind"])
    if match := RPN_CONV.fullmatch(name):
        return kernel_or_bias(f"rpn/conv{int(match['number'] or 0) + 1}", match["kind"], convolution)
    if match := RPN_PREDICTOR.fullmatch(name):
        return kernel_or_bias(
            "rpn/" + {"cls_logits": "objectness", "bbox_pred": "deltas"}[match["part"]], match["kind"], convolution
        )
    if match := HEAD_CONV.fullmatch(name):
        number = int(match["number"]) + 1
        if match["part"] == "1":
            return Target(f"roi_head/norm{number}/{NORM_VARIABLES[match['kind']]}", plain)
        return kernel_or_bias(f"roi_head/conv{number}", match["kind"], convolution)
    if match := HEAD_DENSE.fullmatch(name):
        number = int(match["number"]) - first_dense + 1
        return kernel_or_bias(
            f"roi_head/fc{number}", match["kind"], dense_after_pooling(channels) if number == 1 else dense
        )
    if match := PREDICTOR.fullmatch(name):
        if match["part"] == "cls_score":
            return kernel_or_bias("roi_head/class_logits", match["kind"], dense)
        return kernel_or_bias(
            "roi_head/box_deltas", match["kind"], lambda kernel: dense(_without_background(kernel)), _without_background
        )
    return None


def _conv_or_norm(layer: str, is_conv: bool, kind: str) -> Target | None:
    if is_conv:
        return kernel_or_bias(f"{layer}/conv", kind, convolution)
    return Target(f"{layer}/norm/{NORM_VARIABLES[kind]}", plain) if kind in NORM_VARIABLES else None


def _without_background(rows: np.ndarray) -> np.ndarray:
    """Drop the box deltas of the background, which torchvision stores first and never uses."""
    return rows[4:]
