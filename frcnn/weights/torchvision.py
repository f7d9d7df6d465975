"""torchvision's ResNet detectors (``fasterrcnn_resnet50_fpn``, ``…_v2``) and classification ResNets by their tensors' names.

The network is read off the names and shapes, so that a checkpoint of one's own with another depth or other classes works as
well. Facts from torchvision 0.29.1: ``models/resnet.py``, ``models/detection/{faster_rcnn,rpn}.py``, ``ops/feature_pyramid_network.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from frcnn.errors import UserError
from frcnn.weights.coco_classes import LARGEST_ID, classes_of
from frcnn.weights.conversion import (
    Layout,
    Target,
    Translation,
    convolution,
    dense,
    dense_after_pooling,
    plain,
    resnet_name,
    sides_of,
)

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
COUNTER = "num_batches_tracked"

BLOCK = (
    r"(?:backbone\.body\.)?layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?:conv(?:(?P<conv3>3)|[12])|downsample\.0)\.weight$"
)

# Our path of each foreign name; NORM's right side and the layouts come in where a group says so.
STEM = re.compile(r"(?:backbone\.body\.)?(?P<part>conv1|bn1)\.(?P<what>\w+)")
IN_BLOCK = re.compile(
    r"(?:backbone\.body\.)?layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?P<part>conv|bn|downsample\.)(?P<number>\d)\.(?P<what>\w+)"
)
# A norm is number 1 beside its convolution 0; checkpoints from before torchvision 0.13 have no such numbers.
PYRAMID = re.compile(
    r"backbone\.fpn\.(?P<kind>inner|layer)_blocks\.(?P<level>[0-3])(?:\.(?P<part>[01]))?\.(?P<what>\w+)"
)
RPN_CONV = re.compile(r"rpn\.head\.conv(?:\.(?P<number>\d+)\.0)?\.(?P<what>\w+)")
RPN_PREDICTOR = re.compile(r"rpn\.head\.(?P<part>cls_logits|bbox_pred)\.(?P<what>\w+)")
HEAD_CONV = re.compile(r"roi_heads\.box_head\.(?P<number>\d+)\.(?P<part>[01])\.(?P<what>\w+)")
HEAD_DENSE = re.compile(r"roi_heads\.box_head\.(?:fc)?(?P<number>\d+)\.(?P<what>weight|bias)")
PREDICTOR = re.compile(r"roi_heads\.box_predictor\.(?P<part>cls_score|bbox_pred)\.(?P<what>\w+)")

# The shapes of these say how wide the network is and how many classes it has.
LOGITS, SCORES = "rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight"

CLASSIFIER = "the classifier of ImageNet's classes"
COUNTERS = "counts training batches, which nothing here needs"
UNKNOWN = "no part of a Faster R-CNN"


def translate(tensors: Mapping[str, np.ndarray]) -> Translation:
    """How to read a torchvision checkpoint.

    Raises:
        UserError: it is neither a ResNet nor a Faster R-CNN on one.
    """
    detector = any(name.startswith("backbone.body.") for name in tensors)
    if not detector and "layer1.0.conv1.weight" not in tensors:
        raise UserError(
            "no network of torchvision's that frcnn knows: it has neither 'backbone.body.…' (a detector) nor "
            f"'layer1.0.conv1.weight' (a ResNet); its first tensor is {min(tensors)!r}"
        )
    for name in (LOGITS, SCORES) if detector else ():
        if name not in tensors:
            raise UserError(f"it has a detector's backbone but no {name!r}; expected a Faster R-CNN")
    targets: dict[str, Target] = {}
    left_out: dict[str, str] = {}
    channels = sides_of(tensors, LOGITS, 4)[1] if detector else 0
    first_dense = _first_dense(tensors)
    for name in tensors:
        target = _target(name, channels, first_dense)
        if target:
            targets[name] = target
        else:
            left_out[name] = _why_not(name)
    names, ids = classes_of(sides_of(tensors, SCORES, 2)[0] - 1) if detector else ((), ())
    return Translation(_options(tensors, detector, len(names)), names, ids, targets, left_out=left_out)


def _options(tensors: Mapping[str, np.ndarray], detector: bool, classes: int) -> dict[str, Any]:
    """What differs from the configuration's defaults, which are torchvision's."""
    backbone: dict[str, Any] = {"name": resnet_name(tensors, BLOCK), "freeze": 2}
    if not detector:
        return {"backbone": backbone}
    second = "backbone.fpn.inner_blocks.0.1.weight" in tensors
    if second:
        backbone["norm"] = "bn"
    elif classes == LARGEST_ID:
        backbone["norm_eps"] = 0.0  # torchvision runs its published COCO weights so ("overwrite_eps")
    convs = len([name for name in tensors if re.fullmatch(r"roi_heads\.box_head\.\d+\.0\.weight", name)])
    layers = len([name for name in tensors if (match := HEAD_DENSE.fullmatch(name)) and match["what"] == "weight"])
    return {
        "backbone": backbone,
        "fpn": {"channels": tensors[LOGITS].shape[1], "norm": "bn" if second else "none"},
        "rpn": {"convs": len([name for name in tensors if RPN_CONV.fullmatch(name) and name.endswith("weight")])},
        "roi_head": {"convs": convs, "fc_layers": layers, "fc_channels": tensors[SCORES].shape[1]},
    }


def _first_dense(tensors: Mapping[str, np.ndarray]) -> int:
    """Number of the first fully connected layer: 6 as in fc6, or its place behind the convolutions and the flattening."""
    return min((int(match["number"]) for match in map(HEAD_DENSE.fullmatch, tensors) if match), default=0)


def _why_not(name: str) -> str:
    if name.endswith(COUNTER):
        return COUNTERS
    return CLASSIFIER if name in ("fc.weight", "fc.bias") else UNKNOWN


def _target(name: str, channels: int, first_dense: int) -> Target | None:
    """Our variable for a foreign name; None where there is none."""
    if name.endswith(COUNTER):
        return None
    if match := STEM.fullmatch(name):
        return _conv_or_norm("backbone/stem", match["part"] == "conv1", match["what"])
    if match := IN_BLOCK.fullmatch(name):
        block = f"backbone/stage{int(match['stage']) + 1}_block{int(match['block']) + 1}"
        if match["part"] == "downsample.":
            return _conv_or_norm(f"{block}/shortcut", match["number"] == "0", match["what"])
        return _conv_or_norm(f"{block}/conv{match['number']}", match["part"] == "conv", match["what"])
    if match := PYRAMID.fullmatch(name):
        kind = "lateral" if match["kind"] == "inner" else "output"
        return _conv_or_norm(f"fpn/{kind}{int(match['level']) + 2}", match["part"] != "1", match["what"])
    if match := RPN_CONV.fullmatch(name):
        return _kernel_or_bias(f"rpn/conv{int(match['number'] or 0) + 1}", match["what"], convolution)
    if match := RPN_PREDICTOR.fullmatch(name):
        return _kernel_or_bias(
            "rpn/" + {"cls_logits": "objectness", "bbox_pred": "deltas"}[match["part"]], match["what"], convolution
        )
    if match := HEAD_CONV.fullmatch(name):
        number = int(match["number"]) + 1
        if match["part"] == "1":
            return Target(f"roi_head/norm{number}/{NORM[match['what']]}", plain)
        return _kernel_or_bias(f"roi_head/conv{number}", match["what"], convolution)
    if match := HEAD_DENSE.fullmatch(name):
        number = int(match["number"]) - first_dense + 1
        return _kernel_or_bias(
            f"roi_head/fc{number}", match["what"], dense_after_pooling(channels) if number == 1 else dense
        )
    if match := PREDICTOR.fullmatch(name):
        if match["part"] == "cls_score":
            return _kernel_or_bias("roi_head/class_logits", match["what"], dense)
        return _kernel_or_bias(
            "roi_head/box_deltas", match["what"], lambda kernel: dense(_without_background(kernel)), _without_background
        )
    return None


def _conv_or_norm(layer: str, is_conv: bool, what: str) -> Target | None:
    if is_conv:
        return _kernel_or_bias(f"{layer}/conv", what, convolution)
    return Target(f"{layer}/norm/{NORM[what]}", plain) if what in NORM else None


def _kernel_or_bias(layer: str, what: str, layout: Layout, of_bias: Layout = plain) -> Target:
    return Target(f"{layer}/kernel", layout) if what == "weight" else Target(f"{layer}/bias", of_bias)


def _without_background(rows: np.ndarray) -> np.ndarray:
    """Box deltas stand by class with the background first, whose four are never used."""
    return rows[4:]
