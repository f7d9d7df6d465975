"""Translation of Detectron2's ResNet-FPN Faster and Cascade R-CNN and of MSRA's ResNets (with Caffe2's names).

The network is inferred from names and shapes of the tensors. What they do not show (BGR, stride in the 1x1 convolution,
aligned pooling, fixed anchor strides, L1) is taken from the model zoo's ``faster_rcnn_R_50_FPN``, ``R_101_FPN`` and
``cascade_mask_rcnn_R_50_FPN``, of which the mask branch is left out. Names follow Detectron2 0.6:
``modeling/backbone/{resnet,fpn}.py``, ``modeling/roi_heads/{fast,cascade}_rcnn.py`` and
``checkpoint/c2_model_loading.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from frcnn.errors import UserError
from frcnn.weights.coco_classes import classes_of
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

PREDICTOR, LATERAL = "roi_heads.box_predictor.cls_score.weight", "backbone.fpn_lateral2.weight"
CASCADE_PREDICTOR = "roi_heads.box_predictor.0.cls_score.weight"

# Caffe2's names, for example res2_0_branch2a_w, res2_0_branch2a_bn_s, res_conv1_bn_b, conv1_w.
CAFFE2_CONVS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
CAFFE2_STEM = re.compile(r"(?:conv1_w|res_conv1_bn_(?P<norm>[sb]))")
CAFFE2_BLOCK = re.compile(r"res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2[abc])(?:_w|_bn_(?P<norm>[sb]))")
CAFFE2_NORM = {"s": "weight", "b": "bias"}

BLOCK = r"backbone\.bottom_up\.res(?P<stage>[2-5])\.(?P<block>\d+)\.(?:conv(?:(?P<conv3>3)|[12])|shortcut)\.weight$"
RESNET = re.compile(
    r"backbone\.bottom_up\.(?:stem|res(?P<stage>[2-5])\.(?P<block>\d+))\."
    r"(?P<conv>conv[123]|shortcut)\.(?P<norm>norm\.)?(?P<kind>\w+)"
)
PYRAMID = re.compile(r"backbone\.fpn_(?P<layer>lateral|output)(?P<level>[2-5])\.(?P<kind>weight|bias)")
RPN = re.compile(r"proposal_generator\.rpn_head\.(?P<part>conv|objectness_logits|anchor_deltas)\.(?P<kind>weight|bias)")
RPN_PARTS = {"conv": "conv1", "objectness_logits": "objectness", "anchor_deltas": "deltas"}
STAGE = r"(?:(?P<stage>\d+)\.)?"  # of a cascade
HEAD = re.compile(rf"roi_heads\.box_head\.{STAGE}fc(?P<number>\d+)\.(?P<kind>weight|bias)")
CLASSES = re.compile(rf"roi_heads\.box_predictor\.{STAGE}(?P<part>cls_score|bbox_pred)\.(?P<kind>weight|bias)")
PIXELS = re.compile(r"pixel_(?P<kind>mean|std)")
CELL_ANCHORS = re.compile(r"proposal_generator\.anchor_generator\.cell_anchors\.(?P<level>[0-4])")

MASK_BRANCH = "roi_heads.mask_head."

CLASSIFIER = "classifier of ImageNet's classes"
MASKS = "mask branch: frcnn detects boxes only"
UNKNOWN = "not part of a Faster R-CNN with FPN"

# Options of the model zoo's networks that differ from the defaults, which are torchvision's.
ZOO: dict[str, dict[str, Any]] = {
    "image": {
        "min_size": (640, 672, 704, 736, 768, 800), "resize": "pillow", "channel_order": "bgr",
        "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0),
    },
    "backbone": {"stride_in_1x1": True, "freeze": 2},
    "anchors": {"rounded": False, "stride": "fixed"},
    "rpn": {"post_nms_train": 1000, "min_box_size": 0.0, "smooth_l1_beta": 0.0, "normalizer": "constant"},
    "roi_head": {
        "sampling_ratio": 0, "aligned": True, "level_rule": "detectron2", "smooth_l1_beta": 0.0, "min_box_size": 0.0,
    },
}  # fmt: skip
# Options of the zoo's cascade_mask_rcnn_R_50_FPN_3x that differ from ZOO; a file of another cascade must have as many
# stages, because its thresholds are not in it.
ZOO_CASCADE: dict[str, dict[str, Any]] = {
    "rpn": {"post_nms_train": 2000},
    "roi_head": {"cascade": (0.5, 0.6, 0.7)},
}


def translate(tensors: Mapping[str, np.ndarray]) -> Translation:
    """How to read a Detectron2 checkpoint.

    Raises:
        UserError: it is neither a Caffe2 ResNet nor a Faster or Cascade R-CNN with FPN.
    """
    if "res2_0_branch2a_w" in tensors:
        return _translate_caffe2(tensors)
    predictor = CASCADE_PREDICTOR if CASCADE_PREDICTOR in tensors else PREDICTOR
    if predictor not in tensors or LATERAL not in tensors:
        raise UserError(
            f"not a supported network of Detectron2: it has neither 'res2_0_branch2a_w' (a ResNet of MSRA) nor "
            f"{PREDICTOR!r} and {LATERAL!r} (Faster R-CNN with FPN); its first tensor is {min(tensors)!r}"
        )
    targets: dict[str, Target] = {}
    settings: dict[str, str] = {}
    left_out: dict[str, str] = {}
    options = _network_options(tensors, predictor)
    for name, values in tensors.items():
        if target := _target(name, options["fpn"]["channels"]):
            targets[name] = target
        elif match := PIXELS.fullmatch(name):
            options["image"][match["kind"]] = tuple(_decimal(value) for value in values.ravel())
            settings[name] = f"image.{match['kind']}"
        elif CELL_ANCHORS.fullmatch(name):
            settings[name] = "anchors.sizes and anchors.aspect_ratios"
        else:
            left_out[name] = MASKS if name.startswith(MASK_BRANCH) else UNKNOWN
    cells = {int(match["level"]): name for name in tensors if (match := CELL_ANCHORS.fullmatch(name))}
    options["anchors"] |= _anchors(
        {level: tensors[name].reshape(shape_of(tensors, name, 2)) for level, name in cells.items()}
    )
    names, ids = classes_of(len(tensors[predictor]) - 1)
    return Translation(options, names, ids, targets, settings=settings, left_out=left_out)


def _network_options(tensors: Mapping[str, np.ndarray], predictor: str) -> dict[str, dict[str, Any]]:
    """Options by section: those of the model zoo, and what the shapes of the tensors show."""
    options = {section: dict(changes) for section, changes in ZOO.items()}
    options["backbone"]["name"] = resnet_name(tensors, BLOCK)
    options["fpn"] = {"channels": shape_of(tensors, LATERAL, 4)[0]}
    layers = [match for match in map(HEAD.fullmatch, tensors) if match and match["kind"] == "weight"]
    options["roi_head"]["fc_channels"] = shape_of(tensors, predictor, 2)[1]
    options["roi_head"]["fc_layers"] = len({match["number"] for match in layers})
    if predictor == CASCADE_PREDICTOR:
        stages = {match["stage"] for match in layers}
        expected = len(ZOO_CASCADE["roi_head"]["cascade"])
        if len(stages) != expected:
            raise UserError(f"it is a cascade of {len(stages)} stages; expected {expected}, as in Detectron2's zoo")
        for section, changes in ZOO_CASCADE.items():
            options[section] |= changes
    return options


def _target(name: str, channels: int) -> Target | None:
    """Our variable for a foreign name, or None."""
    if match := RESNET.fullmatch(name):
        block = f"stage{match['stage']}_block{int(match['block']) + 1}/{match['conv']}" if match["stage"] else "stem"
        if match["norm"]:
            return (
                Target(f"backbone/{block}/norm/{NORM_VARIABLES[match['kind']]}", plain)
                if match["kind"] in NORM_VARIABLES
                else None
            )
        return kernel_or_bias(f"backbone/{block}/conv", match["kind"], convolution)
    if match := PYRAMID.fullmatch(name):
        return kernel_or_bias(f"fpn/{match['layer']}{match['level']}/conv", match["kind"], convolution)
    if match := RPN.fullmatch(name):
        return kernel_or_bias(f"rpn/{RPN_PARTS[match['part']]}", match["kind"], convolution)
    if match := HEAD.fullmatch(name):
        first = match["number"] == "1"
        layout = dense_after_pooling(channels) if first else dense
        return kernel_or_bias(f"{_head(match['stage'])}/fc{match['number']}", match["kind"], layout)
    if match := CLASSES.fullmatch(name):
        if match["part"] == "bbox_pred":
            return kernel_or_bias(f"{_head(match['stage'])}/box_deltas", match["kind"], dense)
        layer = f"{_head(match['stage'])}/class_logits"
        return kernel_or_bias(layer, match["kind"], lambda kernel: dense(_background_first(kernel)), _background_first)
    return None


def _head(stage: str | None) -> str:
    """Path of our head of a stage, which Detectron2 counts from 0; None without a cascade."""
    return "roi_head" if stage is None else f"roi_head/stage{int(stage) + 1}"


def _background_first(rows: np.ndarray) -> np.ndarray:
    """Move the background, which is Detectron2's last class, to the front."""
    return np.roll(rows, 1, axis=0)


def _decimal(value: float) -> float:
    """The shortest decimal number that gives this float32."""
    return float(np.format_float_positional(np.float32(value)))


def _anchors(cells: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Sizes and aspect ratios from the anchors ``[R, 4]`` by level that older files contain."""
    if not cells:
        return {}
    sides = {level: boxes[:, 2:].astype(np.float64) - boxes[:, :2] for level, boxes in cells.items()}
    ratios = {level: tuple((side[:, 1] / side[:, 0]).round(4).tolist()) for level, side in sides.items()}
    sizes = tuple(float(np.sqrt(side[0].prod()).round(3)) for _, side in sorted(sides.items()))
    if len(sizes) != 5 or len(set(ratios.values())) > 1:
        raise UserError(
            f"the anchors have the sizes {list(sizes)} and ratios {ratios}; expected five levels with the same ratios"
        )
    return {"sizes": sizes, "aspect_ratios": ratios[0]}


def _translate_caffe2(tensors: Mapping[str, np.ndarray]) -> Translation:
    """A ResNet of MSRA. Its norms are stored as scale and shift, so the statistics are mean 0 and variance 1."""
    targets: dict[str, Target] = {}
    left_out: dict[str, str] = {}
    for name in tensors:
        renamed = _from_caffe2(name)
        target = _target(renamed, 0) if renamed else None
        if target:
            targets[name] = target
        else:
            left_out[name] = CLASSIFIER if name.startswith(("fc1000", "pred")) else UNKNOWN
    implied: dict[str, float] = {}
    for target in targets.values():
        if target.path.endswith("/norm/gamma"):
            layer = target.path.removesuffix("gamma")
            implied |= {f"{layer}moving_mean": 0.0, f"{layer}moving_variance": 1.0}
    names = [renamed for renamed in map(_from_caffe2, tensors) if renamed]
    options = {"image": ZOO["image"], "backbone": {**ZOO["backbone"], "name": resnet_name(names, BLOCK)}}
    return Translation(options, (), (), targets, implied=implied, left_out=left_out)


def _from_caffe2(name: str) -> str | None:
    """Detectron2's name: ``res2_0_branch2a_bn_s`` is ``backbone.bottom_up.res2.0.conv1.norm.weight``."""
    if match := CAFFE2_STEM.fullmatch(name):
        layer = "stem.conv1"
    elif match := CAFFE2_BLOCK.fullmatch(name):
        layer = f"res{match['stage']}.{match['block']}.{CAFFE2_CONVS[match['branch']]}"
    else:
        return None
    return f"backbone.bottom_up.{layer}." + (f"norm.{CAFFE2_NORM[match['norm']]}" if match["norm"] else "weight")
