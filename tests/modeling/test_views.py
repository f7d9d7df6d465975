"""Views of test-time augmentation with a detector that finds the bright rectangle of an image."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from frcnn.config import Config, load_config, with_test_options
from frcnn.errors import UserError
from frcnn.modeling.detections import BatchDetections
from frcnn.modeling.views import at_largest_scale, detect_views, views_of

SIZES, ORIGINALS = np.array([[60, 96], [64, 50]], np.int32), np.array([[120, 192], [64, 100]], np.int32)
BOXES = np.array([[10, 20, 40, 44], [4, 8, 30, 60]], np.float32)  # on the canvas of 64 x 96


class Bright:
    """Boxes of the bright pixels of canvases, as one detection of class 1 with the next of the scores."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = list(scores)
        self.canvases: list[tuple[int, ...]] = []

    def __call__(self, images: tf.Tensor, sizes: tf.Tensor) -> BatchDetections:
        self.canvases.append(tuple(images.shape[1:3]))
        found = np.zeros([2, 3, 4], np.float32)  # two slots are empty
        for row, image in enumerate(images.numpy()):
            ys, xs = np.nonzero(image[..., 0] > 0.5)
            assert ys.max() < sizes[row, 0]
            assert xs.max() < sizes[row, 1]
            found[row, 0] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        first = np.array([[1, 0, 0]] * 2)
        scores = tf.constant(self.scores.pop(0) * first, tf.float32)
        return BatchDetections(tf.constant(found), scores, tf.constant(first, tf.int32), tf.constant([1, 1]))


def merged(detect: Bright, *overrides: str) -> BatchDetections:
    images = np.zeros([2, 64, 96, 3], np.float32)
    for row, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        images[row, y1:y2, x1:x2] = 1
    config = load_config(overrides=["ops.kernel=reference", *overrides])
    return detect_views(detect, tf.constant(images), tf.constant(SIZES), tf.constant(ORIGINALS), config)


EXPECTED = BOXES * np.array([[2, 2, 2, 2], [2, 1, 2, 1]])  # in pixels of the originals


def test_boxes_of_the_mirrored_image_are_mirrored_back() -> None:
    detect = Bright([0.3, 0.9])  # the mirrored view has the better score, so its box is kept
    found = merged(detect, "test.flip=true")
    assert detect.canvases == [(64, 96), (64, 96)]
    assert found.counts.numpy().tolist() == [1, 1]
    np.testing.assert_allclose(found.scores[:, 0], [0.9, 0.9])
    np.testing.assert_allclose(found.boxes[:, 0], EXPECTED)


def test_boxes_of_a_smaller_scale_return_to_the_size_of_the_original() -> None:
    detect = Bright([0.2, 0.3, 0.8, 0.4])
    found = merged(detect, "test.flip=true", "test.scales=[2,1]")
    assert detect.canvases == [(64, 96), (64, 96), (32, 64), (32, 64)]
    assert found.counts.numpy().tolist() == [1, 1]
    np.testing.assert_allclose(found.boxes[:, 0], EXPECTED, atol=0.01)


def test_soft_nms_keeps_the_detections_of_both_views_with_a_lower_score() -> None:
    found = merged(Bright([0.8, 0.6]), "test.flip=true", "test.soft_nms=gaussian")
    assert found.counts.numpy().tolist() == [2, 2]
    np.testing.assert_allclose(found.scores[:, :2], [[0.8, 0.6 * np.exp(-2)]] * 2, rtol=1e-5)


def test_images_are_resized_to_the_largest_scale() -> None:
    config = load_config(overrides=["image.min_size=[320,400]", "image.max_size=600", "test.scales=[0.5,1.5]"])
    assert (at_largest_scale(config).image.min_size, at_largest_scale(config).image.max_size) == ((600,), 900)
    assert [view.scale for view in views_of(config.test)] == [pytest.approx(1 / 3), 1]
    assert at_largest_scale(Config()).image == Config().image


def test_options_of_a_command_replace_those_of_the_model() -> None:
    config = with_test_options(Config(), "flip=true scales=[1,0.5] soft_nms=linear")
    assert (config.test.flip, config.test.scales, config.test.soft_nms) == (True, (1.0, 0.5), "linear")
    assert with_test_options(Config(), None).test == Config().test
    for text, message in (
        ("flip", "test option 'flip' is not of the form KEY=VALUE"),
        ("flp=true", "unknown option 'test.flp'; did you mean 'test.flip'"),
        ("scales=[1,1]", r"section 'test': scales \[1.0, 1.0\] contains a size twice"),
    ):
        with pytest.raises(UserError, match=message):
            with_test_options(Config(), text)
