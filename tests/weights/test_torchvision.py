"""torchvision's names: all tensors of the real lists are translated, and the options equal the presets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import foreign_names
import numpy as np
import pytest

from frcnn.config import Config, load_config
from frcnn.errors import UserError
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights.conversion import convert
from frcnn.weights.torchvision import translate

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NETWORK = ("image", "backbone", "fpn", "anchors", "rpn", "roi_head")


def shapes_only(shapes: foreign_names.Shapes) -> dict[str, np.ndarray]:
    """Tensors that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def real(golden: Path, name: str) -> dict[str, np.ndarray]:
    return shapes_only({key: tuple(shape) for key, shape in json.loads((golden / f"{name}.json").read_text()).items()})


def small(depth: int = 18, outputs: int = 4) -> foreign_names.Shapes:
    return foreign_names.torchvision_detector(depth, outputs, channels=16, width=32)


def test_the_small_test_networks_have_the_real_names(golden: Path) -> None:
    assert foreign_names.torchvision_detector() == {
        name: values.shape for name, values in real(golden, "torchvision").items()
    }


@pytest.mark.parametrize(
    ("name", "preset"), [("torchvision", "torchvision_r50_fpn"), ("torchvision_v2", "torchvision_r50_fpn_v2")]
)
def test_all_real_names_are_translated_and_give_the_preset(golden: Path, name: str, preset: str) -> None:
    tensors = real(golden, name)
    translation = translate(tensors)
    assert set(translation.left_out) == {key for key in tensors if key.endswith("num_batches_tracked")}
    assert translation.targets.keys() | translation.left_out.keys() == tensors.keys()
    paths = [target.path for target in translation.targets.values()]
    assert len(set(paths)) == len(paths)
    config, expected = (
        Config.model_validate(translation.options),
        load_config(REPOSITORY / "configs" / f"{preset}.yaml"),
    )
    assert [getattr(config, section) for section in NETWORK] == [getattr(expected, section) for section in NETWORK]
    assert len(translation.class_names) == 90
    assert (translation.class_names[0], translation.class_names[11], translation.class_names[89]) == (
        "person",
        "unused 12",
        "toothbrush",
    )


def test_names_from_before_torchvision_0_13(golden: Path) -> None:
    """The published v1 file has them: levels of the FPN and the RPN convolution have no part numbers; no counters."""
    tensors = real(golden, "torchvision")
    older = {
        re.sub(r"((?:inner|layer)_blocks\.\d)\.0", r"\1", name).replace("rpn.head.conv.0.0", "rpn.head.conv"): values
        for name, values in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "backbone.fpn.inner_blocks.0.weight" in older
    assert "rpn.head.conv.weight" in older
    new, old = translate(tensors), translate(older)
    assert old.options == new.options
    assert old.left_out == {}
    assert sorted(target.path for target in old.targets.values()) == sorted(
        target.path for target in new.targets.values()
    )


def test_values_of_the_variables() -> None:
    tensors = foreign_names.random_tensors(small())
    translation = translate(tensors)
    assert translation.class_names == ("class 1", "class 2", "class 3")
    model = build_model(3, Config.model_validate(translation.options))
    ours = convert(tensors, translation, {variable.path: tuple(variable.shape) for variable in model.variables})
    body, head = "backbone.body.layer3.1", "roi_heads.box_predictor"
    expected = {
        "backbone/stage4_block2/conv2/conv/kernel": tensors[f"{body}.conv2.weight"].transpose(2, 3, 1, 0),
        "backbone/stage4_block2/conv2/norm/moving_variance": tensors[f"{body}.bn2.running_var"],
        "backbone/stage3_block1/shortcut/norm/beta": tensors["backbone.body.layer2.0.downsample.1.bias"],
        "fpn/output5/conv/bias": tensors["backbone.fpn.layer_blocks.3.0.bias"],
        "rpn/conv1/kernel": tensors["rpn.head.conv.0.0.weight"].transpose(2, 3, 1, 0),
        "rpn/deltas/bias": tensors["rpn.head.bbox_pred.bias"],
        "roi_head/fc2/kernel": tensors["roi_heads.box_head.fc7.weight"].T,
        "roi_head/class_logits/bias": tensors[f"{head}.cls_score.bias"],
        "roi_head/box_deltas/kernel": tensors[f"{head}.bbox_pred.weight"][4:].T,
        "roi_head/box_deltas/bias": tensors[f"{head}.bbox_pred.bias"][4:],
    }
    for path, values in expected.items():
        np.testing.assert_array_equal(ours[path], values, err_msg=path)


@pytest.mark.parametrize("depth", foreign_names.DEPTHS)
def test_classification_resnets_are_backbones(depth: int) -> None:
    translation = translate(shapes_only(foreign_names.torchvision_classifier(depth)))
    assert translation.backbone_only
    assert translation.options["backbone"]["name"] == f"resnet{depth}"
    counters = {name for name in translation.left_out if name.endswith("num_batches_tracked")}
    assert set(translation.left_out) - counters == {"fc.weight", "fc.bias"}
    assert "ImageNet" in translation.left_out["fc.weight"]
    assert len(translation.targets) == 5 * len(counters)
    assert all(target.path.startswith("backbone/") for target in translation.targets.values())


def test_norm_epsilon_is_zero_for_the_published_weights_only(golden: Path) -> None:
    assert translate(real(golden, "torchvision")).options["backbone"]["norm_eps"] == 0.0
    assert "norm_eps" not in translate(shapes_only(small())).options["backbone"]


def test_other_tensors_are_reported_and_other_networks_rejected() -> None:
    mask = {"roi_heads.mask_predictor.conv5_mask.weight": (4, 4, 2, 2)}
    assert translate(shapes_only(small() | mask)).left_out.keys() >= mask.keys()
    sentence = (
        r"neither 'backbone\.body\.…' .* nor 'layer1\.0\.conv1\.weight' .*; its first tensor is 'features\.0\.weight'"
    )
    with pytest.raises(UserError, match=sentence):
        translate(shapes_only({"features.0.weight": (1, 1)}))
    with pytest.raises(UserError, match=r"the backbone of a detector but no 'rpn\.head\.cls_logits\.weight'"):
        translate(shapes_only({"backbone.body.conv1.weight": (64, 3, 7, 7)}))
