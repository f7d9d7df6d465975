"""The Python interface of the detector: images of every type in, detections with class names out."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from frcnn.config import load_config
from frcnn.drawing import class_color
from frcnn.errors import UserError
from frcnn.inference import Detections, Detector
from frcnn.modeling.faster_rcnn import build_model

CLASSES = ("cat", "dog")
OPTIONS = """
    image.min_size=[64] image.max_size=128 image.canvas_aspects=[]
    backbone.name=resnet18 backbone.norm=gn fpn.channels=32
    anchors.sizes=[8,16,32,64,128] rpn.pre_nms_test=60 rpn.post_nms_test=20 roi_head.fc_channels=32
"""


@pytest.fixture(scope="module")
def detector() -> Detector:
    config = load_config(overrides=OPTIONS.split())
    keras.utils.set_random_seed(1)
    return Detector(build_model(len(CLASSES), config), config, CLASSES, (1, 2))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Noise of three sizes and two canvases, in mixed order."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in [(40, 60), (60, 40), (44, 62), (60, 44), (41, 61)]]


def assert_same(found: Detections, expected: Detections) -> None:
    assert found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert found.class_names == CLASSES


def test_an_array_a_file_and_a_pillow_image_give_the_same_detections(
    detector: Detector, images: list[np.ndarray], tmp_path: Path
) -> None:
    upright = Image.fromarray(images[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: viewers rotate the stored pixels by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    (expected,) = detector.detect(images[0])
    assert len(expected) > 0
    with Image.open(tmp_path / "turned.png") as turned:
        sources = [tmp_path / "upright.png", str(tmp_path / "turned.png"), turned, upright, upright.convert("RGBA")]
        for found in detector.detect(sources):
            assert_same(found, expected)


def test_a_list_gives_the_results_of_its_images_in_their_order(detector: Detector, images: list[np.ndarray]) -> None:
    expected = [detector.detect(image)[0] for image in images]
    assert len({found.boxes.tobytes() for found in expected}) == len(images)
    for batch_size in (1, 2):
        for found, alone in zip(detector.detect(images, batch_size), expected, strict=True):
            assert_same(found, alone)
    stack = np.stack([images[0], images[0][::-1]])
    assert_same(detector.detect(stack)[0], expected[0])
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((4, 5, 3), np.float32),
            r"the image is an array float32 \(4, 5, 3\); expected uint8 \[height, width, 3\]",
        ),
        (np.zeros((4, 5), np.uint8), r"the image is an array uint8 \(4, 5\)"),
        (Image.new("I;16", (4, 5)), "the image has mode 'I;16'; convert it to 8 bits, or give the file's path"),
        (Path("missing.jpg"), r"missing\.jpg does not exist"),
        (3, "the image is a int; expected a NumPy array, a path or a Pillow image"),
        ([3], "the image is a int; expected a NumPy array, a path or a Pillow image"),
    ],
    ids=["dtype", "shape", "16 bits", "missing", "type", "type in a list"],
)
def test_other_inputs_are_errors(detector: Detector, image: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detector.detect(image)  # type: ignore[arg-type]


def test_drawing_shows_boxes_in_the_colors_of_their_classes(tmp_path: Path) -> None:
    image = np.full((500, 600, 3), 128, np.uint8)
    boxes = np.array([[100, 150, 300, 400], [400, 100, 500, 200]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([2, 1], np.int32), CLASSES)
    assert (len(found), found.names) == (2, ["dog", "cat"])
    Image.fromarray(image).save(tmp_path / "grey.png")
    for source in (image, tmp_path / "grey.png"):
        drawn = np.asarray(found.draw(source))
        assert drawn.shape == image.shape
        assert tuple(drawn[300, 100]) == class_color(2)
        assert (drawn[100:200, 380:520] == 128).all(), "a score below the threshold of 0.5"
    assert tuple(np.asarray(found.draw(image, score_threshold=0.4))[150, 400]) == class_color(1)
    assert (image == 128).all(), "drawing changes a copy"


def test_features_are_those_of_the_image_without_its_padding(detector: Detector, images: list[np.ndarray]) -> None:
    first, second = (detector.prepare(image) for image in images[:2])
    features = detector.features(first)
    assert np.linalg.norm(features) == pytest.approx(1, abs=1e-5)
    assert np.abs(features - detector.features(second)).max() > 1e-3
    level = detector.model.pyramid(first.canvas[None])[3][0].numpy()
    stride = first.canvas.shape[0] // level.shape[0]
    rows, columns = (math.ceil(side / stride) for side in first.size)
    mean = level[:rows, :columns].mean(axis=(0, 1))
    np.testing.assert_allclose(features, mean / np.linalg.norm(mean), atol=1e-4)
