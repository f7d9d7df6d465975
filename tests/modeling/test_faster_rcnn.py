"""The detector: agreement of both kernels, names of variables, frozen stages."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from frcnn.config import Backbone, Config, load_config
from frcnn.data.coco import find_split, load_index
from frcnn.data.decode import decode_image
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.resnet import ResNet
from frcnn.ops import Kernel

CLASSES = ("one", "two", "three")
OPTIONS = """
    image.min_size=[96] image.max_size=128 image.canvas_aspects=[1.0] backbone.name=resnet18 backbone.norm=gn
    fpn.channels=32 rpn.pre_nms_test=300 rpn.post_nms_test=200 roi_head.fc_channels=64
"""


def random_model(kernel: Kernel = "reference", *overrides: str) -> tuple[FasterRCNN, Config]:
    """Random weights of a fixed seed, scaled so that there are many detections."""
    config = load_config(overrides=[*OPTIONS.split(), f"ops.kernel={kernel}", *overrides])
    keras.utils.set_random_seed(7)
    model = build_model(len(CLASSES), config)
    heads = [layer for head in model.roi_head.stages for layer in (head.class_logits, head.box_deltas)]
    for layer in (model.rpn.objectness, *heads):
        layer.kernel.assign(layer.kernel * 30)
    return model, config


def test_compiled_and_reference_kernels_give_the_same_detections_on_real_images(real_data: Path) -> None:
    _, config = random_model()
    split = find_split(config.data.model_copy(update={"root": real_data / "coco128"}), "validation")
    images = [decode_image(record.path) for record in load_index(*split).images[:4]]
    found = {}
    for kernel in ("reference", "compiled"):
        model, config = random_model(kernel)
        found[kernel] = Detector(model, config, CLASSES, (1, 2, 3)).detect(images)
    assert sum(len(detections.scores) for detections in found["reference"]) > 100
    for reference, compiled in zip(found["reference"], found["compiled"], strict=True):
        # Two scores may differ by less than rounding, so the order may differ: compare with the nearest box.
        nearest = np.abs(reference.boxes[:, None] - compiled.boxes).max(axis=-1).argmin(axis=1)
        assert sorted(nearest) == list(range(len(compiled.scores)))
        assert reference.labels.tolist() == compiled.labels[nearest].tolist()
        np.testing.assert_allclose(compiled.scores[nearest], reference.scores, atol=1e-4)
        # The canvas has a fifth of the image's side: 1e-4 there, plus rounding of coordinates up to 640.
        np.testing.assert_allclose(compiled.boxes[nearest], reference.boxes, atol=1e-3)


def test_variables_have_readable_unique_names() -> None:
    model, _ = random_model()
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
    backbone = ResNet(Backbone(name="resnet18", freeze=freeze))
    backbone(tf.zeros([1, 64, 64, 3]))
    trained = [variable.path.split("/")[1] for variable in backbone.trainable_variables]
    assert (trained[0] if trained else None) == first_trained


def test_sync_bn_of_the_head_computes_the_statistics_over_the_rois_of_all_ranks() -> None:
    """Two ranks with three and five RoIs give what one with all eight gives; the norms of the FPN stay on their own."""
    model, _ = random_model(
        "reference", "fpn.norm=bn", "roi_head.convs=1", "roi_head.fc_layers=1", "roi_head.norm=sync_bn"
    )
    head = model.roi_head
    pooled = tf.random.stateless_normal([8, 7, 7, 32], seed=[1, 2])
    alone = head(pooled, training=True)
    sums: dict[str, list[tf.Tensor]] = {}

    def collect(values: tf.Tensor, name: str) -> tf.Tensor:
        sums.setdefault(name, []).append(values)
        return values

    model.synchronize(collect)
    layers = {layer.path for layer in model._flatten_layers() if getattr(layer, "allreduce_sum", None)}
    assert layers == {"roi_head/norm1"}
    ranks = pooled[:3], pooled[3:]
    for share in ranks:
        head(share, training=True)
    model.synchronize(lambda values, name: tf.add_n(sums[name]))
    found = [head(share, training=True) for share in ranks]
    for whole, parts in zip(alone, zip(*found, strict=True), strict=True):
        np.testing.assert_allclose(tf.concat(parts, axis=0), whole, rtol=1e-4, atol=1e-5)


def test_folding_for_inference_changes_no_detections_and_replaces_variables() -> None:
    norms = ("backbone.norm=frozen_bn", "fpn.norm=bn", "roi_head.convs=1")
    model, config = random_model("reference", *norms, "roi_head.cascade=[0.5,0.6]")
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "moving_mean")):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    images = [rng.integers(0, 256, (90, 120, 3), np.uint8)]
    (expected,) = Detector(model, config, CLASSES, (1, 2, 3)).detect(images)
    model.fold_batch_norm()
    (found,) = Detector(model, config, CLASSES, (1, 2, 3)).detect(images)
    assert len(expected) > 10
    assert found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    size = tf.TensorSpec([1, 2], tf.int32)
    traced = tf.function(model.detect).get_concrete_function(tf.TensorSpec([1, 96, 96, 3]), size, size)
    read = {variable.ref() for variable in traced.variables}
    assert read == {variable.ref() for variable in model.inference_variables}
    paths = {variable.path for variable in model.variables if variable.value.ref() in read}
    assert not [path for path in paths if "norm" in path or path == "backbone/stem/conv/kernel"]
    assert "rpn/objectness/kernel" in paths
