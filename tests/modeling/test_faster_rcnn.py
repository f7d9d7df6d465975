"""The whole detector: both kernels see the same, names are readable, frozen stages stay."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from frcnn.config import Config, load_config
from frcnn.data.coco import find_split, load_index
from frcnn.data.decode import decode_image
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.ops import Kernel

CLASSES = ("one", "two", "three")


def drawn_model(kernel: Kernel = "reference", *overrides: str) -> tuple[FasterRCNN, Config]:
    """Random weights of a fixed seed, the class scores spread so that detections are many and no two scores tie."""
    options = "image.min_size=[160] image.max_size=256 image.canvas_aspects=[1.0] backbone.name=resnet18 backbone.norm=gn fpn.channels=64"
    config = load_config(overrides=[*options.split(), "roi_head.fc_channels=128", f"ops.kernel={kernel}", *overrides])
    keras.utils.set_random_seed(7)
    model = build_model(len(CLASSES), config)
    for layer in (model.rpn.objectness, model.roi_head.class_logits, model.roi_head.box_deltas):
        layer.kernel.assign(layer.kernel * 30)
    return model, config


def test_compiled_and_reference_kernels_detect_the_same_in_real_pictures(real_data: Path) -> None:
    _, config = drawn_model()
    channel = find_split(config.data.model_copy(update={"root": real_data / "coco128"}), "validation")
    pictures = [decode_image(record.path) for record in load_index(*channel).images[:4]]
    found = {}
    for kernel in ("reference", "compiled"):
        model, config = drawn_model(kernel)
        found[kernel] = Detector(model, config, CLASSES, (1, 2, 3)).detect(pictures)
    assert sum(len(detections.scores) for detections in found["reference"]) > 100
    for reference, compiled in zip(found["reference"], found["compiled"], strict=True):
        assert reference.labels.tolist() == compiled.labels.tolist()
        np.testing.assert_allclose(compiled.scores, reference.scores, atol=1e-4)
        # The canvas has a quarter of the picture's pixels a side: 1e-4 there, and rounding of coordinates up to 640.
        np.testing.assert_allclose(compiled.boxes, reference.boxes, atol=1e-3)


def test_variables_have_readable_unique_names() -> None:
    model, _ = drawn_model()
    names = [variable.path for variable in model.variables]
    assert len(set(names)) == len(names)
    assert {
        "backbone/stem/conv/kernel",
        "fpn/lateral2/conv/bias",
        "rpn/objectness/bias",
        "roi_head/box_deltas/kernel",
    } <= set(names)


@pytest.mark.parametrize(
    ("freeze", "first_trained"), [(0, "stem"), (1, "stage2_block1"), (2, "stage3_block1"), (5, None)]
)
def test_frozen_stages_do_not_train(freeze: int, first_trained: str | None) -> None:
    model, _ = drawn_model("reference", f"backbone.freeze={freeze}")
    trained = [variable.path.split("/")[1] for variable in model.backbone.trainable_variables]
    assert (trained[0] if trained else None) == first_trained
