"""Detectron2's and Caffe2's names: all tensors of the real lists are translated, and the options equal the presets."""

from __future__ import annotations

import json
from pathlib import Path

import foreign_names
import numpy as np
import pytest

from frcnn.config import Config, load_config
from frcnn.errors import UserError
from frcnn.modeling.anchors import base_anchors
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights.conversion import convert
from frcnn.weights.detectron2 import translate

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NETWORK = ("image", "backbone", "fpn", "anchors", "rpn", "roi_head")
PEERS = {"detectron2": "detectron2_r50_fpn", "detectron2_r101": "detectron2_r101_fpn"}


def shapes_only(shapes: foreign_names.Shapes) -> dict[str, np.ndarray]:
    """Tensors that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def real(golden: Path, name: str) -> dict[str, np.ndarray]:
    return shapes_only({key: tuple(shape) for key, shape in json.loads((golden / f"{name}.json").read_text()).items()})


def small() -> dict[str, np.ndarray]:
    return foreign_names.random_tensors(foreign_names.detectron2_detector(50, classes=3, channels=16, width=32))


@pytest.mark.parametrize(("name", "depth"), [("detectron2", 50), ("detectron2_r101", 101)])
def test_the_small_test_networks_have_the_real_names(golden: Path, name: str, depth: int) -> None:
    assert foreign_names.detectron2_detector(depth) == {key: values.shape for key, values in real(golden, name).items()}


def test_the_small_cascade_has_the_real_names(golden: Path) -> None:
    expected = {key: values.shape for key, values in real(golden, "detectron2_cascade").items()}
    assert foreign_names.detectron2_cascade() == expected


@pytest.mark.parametrize(("name", "preset"), PEERS.items())
def test_all_real_names_are_translated_and_give_the_preset(golden: Path, name: str, preset: str) -> None:
    tensors = real(golden, name)
    translation = translate(tensors)
    assert translation.left_out == {}
    assert translation.targets.keys() == tensors.keys()
    assert len({target.path for target in translation.targets.values()}) == len(tensors)
    config, expected = (
        Config.model_validate(translation.options),
        load_config(REPOSITORY / "configs" / f"{preset}.yaml"),
    )
    assert [getattr(config, section) for section in NETWORK] == [getattr(expected, section) for section in NETWORK]
    assert len(translation.class_names) == 80
    assert translation.class_names[11] == "stop sign"
    assert translation.category_ids[11] == 13


def test_values_of_the_variables_with_the_background_first() -> None:
    tensors = small()
    translation = translate(tensors)
    model = build_model(3, Config.model_validate(translation.options))
    ours = convert(tensors, translation, {variable.path: tuple(variable.shape) for variable in model.variables})
    predictor = "roi_heads.box_predictor"
    scores = tensors[f"{predictor}.cls_score.weight"]
    expected = {
        "backbone/stem/norm/gamma": tensors["backbone.bottom_up.stem.conv1.norm.weight"],
        "backbone/stage5_block3/conv3/conv/kernel": tensors["backbone.bottom_up.res5.2.conv3.weight"].transpose(
            2, 3, 1, 0
        ),
        "backbone/stage3_block1/shortcut/norm/moving_mean": tensors[
            "backbone.bottom_up.res3.0.shortcut.norm.running_mean"
        ],
        "fpn/lateral4/conv/kernel": tensors["backbone.fpn_lateral4.weight"].transpose(2, 3, 1, 0),
        "rpn/objectness/bias": tensors["proposal_generator.rpn_head.objectness_logits.bias"],
        "roi_head/class_logits/kernel": np.stack([scores[3], scores[0], scores[1], scores[2]], axis=1),
        "roi_head/class_logits/bias": tensors[f"{predictor}.cls_score.bias"][[3, 0, 1, 2]],
        "roi_head/box_deltas/bias": tensors[f"{predictor}.bbox_pred.bias"],
    }
    for path, values in expected.items():
        np.testing.assert_array_equal(ours[path], values, err_msg=path)


def test_the_box_branch_of_a_cascade_is_translated_and_its_masks_are_left_out() -> None:
    tensors = foreign_names.random_tensors(foreign_names.detectron2_cascade(classes=3, channels=16, width=32))
    translation = translate(tensors)
    masks = {name for name in tensors if name.startswith("roi_heads.mask_head.")}
    assert len(masks) == 12
    assert translation.left_out == dict.fromkeys(masks, "mask branch: frcnn detects boxes only")
    assert translation.targets.keys() == tensors.keys() - masks
    config = Config.model_validate(translation.options)
    assert config.roi_head.cascade == (0.5, 0.6, 0.7)
    assert (config.roi_head.fc_layers, config.roi_head.fc_channels, config.rpn.post_nms_train) == (2, 32, 2000)
    model = build_model(3, config)
    assert [stage.options.box_weights for stage in model.roi_head.stages] == [
        (10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15),
    ]  # fmt: skip
    ours = convert(tensors, translation, {variable.path: tuple(variable.shape) for variable in model.variables})
    for stage in range(3):
        scores = tensors[f"roi_heads.box_predictor.{stage}.cls_score.weight"]
        at = f"roi_head/stage{stage + 1}"
        np.testing.assert_array_equal(ours[f"{at}/class_logits/kernel"], scores[[3, 0, 1, 2]].T)
        np.testing.assert_array_equal(
            ours[f"{at}/box_deltas/bias"], tensors[f"roi_heads.box_predictor.{stage}.bbox_pred.bias"]
        )
        np.testing.assert_array_equal(ours[f"{at}/fc2/kernel"], tensors[f"roi_heads.box_head.{stage}.fc2.weight"].T)


def test_a_cascade_of_another_number_of_stages_is_refused() -> None:
    tensors = shapes_only(foreign_names.detectron2_cascade(classes=3, channels=16, width=32))
    two = {name: values for name, values in tensors.items() if ".2.fc" not in name and ".2.cls" not in name}
    with pytest.raises(UserError, match="a cascade of 2 stages; expected 3, as in Detectron2's zoo"):
        translate(two)


def test_pixel_statistics_and_anchors_of_older_files_become_options() -> None:
    sizes, ratios = (16, 32, 64, 128, 256), (0.5, 1.0, 2.0)
    extra = {
        "pixel_mean": np.array([103.53, 116.28, 123.675], np.float32).reshape(3, 1, 1),
        "pixel_std": np.full((3, 1, 1), 57.375, np.float32),
    }
    cells = "proposal_generator.anchor_generator.cell_anchors"
    extra |= {f"{cells}.{level}": base_anchors(size, ratios, rounded=False) for level, size in enumerate(sizes)}
    translation = translate({**small(), **extra})
    assert translation.left_out == {}
    assert translation.settings.keys() == extra.keys()
    config = Config.model_validate(translation.options)
    assert (config.image.mean, config.image.std) == ((103.53, 116.28, 123.675), (57.375,) * 3)
    assert (config.anchors.sizes, config.anchors.aspect_ratios) == (sizes, ratios)


@pytest.mark.parametrize("depth", [50, 101])
def test_msra_resnets_are_backbones_with_folded_norms(depth: int) -> None:
    tensors = shapes_only(foreign_names.caffe2_resnet(depth))
    translation = translate(tensors)
    assert translation.backbone_only
    assert translation.options["backbone"] == {"name": f"resnet{depth}", "stride_in_1x1": True, "freeze": 2}
    assert translation.options["image"]["channel_order"] == "bgr"
    assert set(translation.left_out) == {"conv1_b", "fc1000_w", "fc1000_b"}
    assert translation.targets["res_conv1_bn_s"].path == "backbone/stem/norm/gamma"
    assert translation.targets["res4_5_branch2c_w"].path == "backbone/stage4_block6/conv3/conv/kernel"
    assert translation.targets["res2_0_branch1_bn_b"].path == "backbone/stage2_block1/shortcut/norm/beta"
    model = build_model(1, Config.model_validate(translation.options))
    backbone = {
        variable.path: tuple(variable.shape) for variable in model.variables if variable.path.startswith("backbone/")
    }
    ours = convert(tensors, translation, backbone)
    assert ours.keys() == backbone.keys()
    np.testing.assert_array_equal(ours["backbone/stage4_block6/conv3/norm/moving_variance"], np.ones(1024))
    np.testing.assert_array_equal(ours["backbone/stage4_block6/conv3/norm/moving_mean"], np.zeros(1024))


def test_other_networks_are_rejected() -> None:
    with pytest.raises(UserError, match=r"neither 'res2_0_branch2a_w' .* nor .*its first tensor is 'head\.weight'"):
        translate({"head.weight": np.zeros((1, 1))})
