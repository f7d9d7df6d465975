"""What training reports about its initial weights, and about conventions that differ from theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import foreign_names
import numpy as np
import pytest
import safetensors.numpy

from frcnn.config import Config, load_config
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.weights import detectron2, torchvision
from frcnn.weights.conversion import Translation
from frcnn.weights.import_weights import import_weights
from frcnn.weights.initial_weights import differing_conventions, start_from
from frcnn.weights.published import PUBLISHED

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DETECTRON2 = CONFIGS / "detectron2_r50_fpn.yaml"
SMALL = [
    "backbone.name=resnet18",
    "fpn.channels=16",
    "roi_head.fc_channels=32",
    "image.min_size=[64]",
    "image.max_size=64",
]


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_headers_of_recipes_say_how_to_import_their_weights_from_a_published_file(recipe: Path) -> None:
    header = "".join(line for line in recipe.read_text().splitlines(keepends=True) if line.startswith("#"))
    published = (CONFIGS.parent / "docs" / "weights.md").read_text()
    for weights in re.findall(r"frcnn train .*\bweights=(\S+)", header):
        if f"frcnn fetch-weights {weights}\n" in header:
            assert weights in PUBLISHED
            continue
        imported = re.search(rf"frcnn import-weights (\S+) --from (\w+) --out {re.escape(weights)}\n", header)
        assert imported, weights
        assert re.search(rf"{imported[1]}`.*\| {imported[2]} \|", published)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of three classes with torchvision's conventions."""
    base = tmp_path_factory.mktemp("weights")
    file = base / "r18.safetensors"
    safetensors.numpy.save_file(
        foreign_names.random_tensors(foreign_names.torchvision_detector(18, 4, channels=16, width=32)), file
    )
    import_weights(file, "torchvision", base / "model")
    return base / "model"


def start(
    folder: Path, class_names: tuple[str, ...], *options: str, file: Path | None = None
) -> tuple[FasterRCNN, Config, list[str]]:
    config = load_config(file, [*SMALL, *options, f"weights={folder}"])
    model = build_model(len(class_names), config)
    return model, config, start_from(model, config, class_names)


def test_same_classes_and_conventions(folder: Path) -> None:
    names = ("class 1", "class 2", "class 3")
    for weights in (folder, folder / "weights.safetensors"):
        model, _, messages = start(weights, names)
        assert messages == [f"started from {weights}: all tensors loaded"]
    saved = safetensors.numpy.load_file(folder / "weights.safetensors")
    np.testing.assert_array_equal(model.roi_head.class_logits.bias, saved["roi_head/class_logits/bias"])


@pytest.mark.parametrize(
    "names", [("a", "b"), ("class 1", "class 3", "class 2")], ids=["fewer", "as many in another order"]
)
def test_predictors_of_other_classes_are_initialized_randomly(folder: Path, names: tuple[str, ...]) -> None:
    model, _, messages = start(folder, names)
    assert messages == [
        f"started from {folder}: all tensors but the predictors of its classes (class 1, class 2, class 3); "
        "roi_head/class_logits, roi_head/box_deltas initialized randomly for this run's classes"
    ]
    saved = safetensors.numpy.load_file(folder / "weights.safetensors")
    assert not model.roi_head.class_logits.bias.numpy().any()
    assert saved["roi_head/class_logits/bias"].any()
    np.testing.assert_array_equal(model.roi_head.dense[0].kernel, saved["roi_head/fc1/kernel"])


def test_differing_conventions_are_reported_with_both_values(folder: Path) -> None:
    _, _, (_, message) = start(folder, ("class 1", "class 2", "class 3"), file=DETECTRON2)
    assert message == (
        f"{folder} was trained with other conventions, and gives other results with those of this run: "
        'image.channel_order was "rgb", is "bgr"; '
        "image.mean was [123.675, 116.28, 103.53], is [103.53, 116.28, 123.675]; "
        'image.std was [58.395, 57.12, 57.375], is [1.0, 1.0, 1.0]; image.resize was "bilinear", is "pillow"; '
        "backbone.stride_in_1x1 was false, is true; anchors.rounded was true, is false; "
        'anchors.stride was "feature", is "fixed"; '
        "roi_head.sampling_ratio was 2, is 0; roi_head.aligned was false, is true; "
        'roi_head.level_rule was "torchvision", is "detectron2". '
        f"Unless this is intended, set them as in {folder / 'config.yaml'}"
    )


@pytest.mark.parametrize(
    ("name", "preset", "translate"),
    [
        ("torchvision", "torchvision_r50_fpn", torchvision.translate),
        ("torchvision_v2", "torchvision_r50_fpn_v2", torchvision.translate),
        ("detectron2", "detectron2_r50_fpn", detectron2.translate),
        ("detectron2_r101", "detectron2_r101_fpn", detectron2.translate),
    ],
)
def test_the_preset_of_a_published_file_has_its_conventions(
    golden: Path, name: str, preset: str, translate: Callable[..., Translation]
) -> None:
    tensors = {
        tensor: np.broadcast_to(np.float32(1), shape)
        for tensor, shape in json.loads((golden / f"{name}.json").read_text()).items()
    }
    imported = Config.model_validate(translate(tensors).options)
    assert differing_conventions(imported, load_config(CONFIGS / f"{preset}.yaml")) == []


def test_box_weights_are_conventions_but_sizes_and_norms_are_not(folder: Path) -> None:
    _, _, (_, message) = start(
        folder, ("a",), "roi_head.box_weights=[1,1,1,1]", "image.min_size=[48]", "backbone.norm=bn", "backbone.freeze=0"
    )
    assert "of this run: roi_head.box_weights was [10.0, 10.0, 5.0, 5.0], is [1.0, 1.0, 1.0, 1.0]. Unless" in message


def test_only_the_conventions_of_a_backbone_matter_for_a_backbone(tmp_path: Path) -> None:
    file = tmp_path / "r18.safetensors"
    safetensors.numpy.save_file(foreign_names.random_tensors(foreign_names.torchvision_classifier(18)), file)
    import_weights(file, "torchvision", tmp_path / "backbone")
    _, _, messages = start(tmp_path / "backbone", ("a",), "roi_head.aligned=true", "anchors.rounded=false")
    assert messages == [
        f"started from {tmp_path / 'backbone'}: only the backbone, which is all it contains; "
        "fpn, roi_head, rpn initialized randomly"
    ]
    _, _, messages = start(tmp_path / "backbone", ("a",), "image.channel_order=bgr")
    assert 'of this run: image.channel_order was "rgb", is "bgr". Unless' in messages[1]


def test_a_weights_file_without_configuration(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "weights.safetensors"
    alone.write_bytes((folder / "weights.safetensors").read_bytes())
    _, _, messages = start(alone, ("a", "b", "c"), file=DETECTRON2)
    assert messages == [f"started from {alone}: all tensors loaded"]
