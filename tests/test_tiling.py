"""Detection in tiles: an object that is found in several of them appears once, in the coordinates of the image."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from frcnn.config import load_config
from frcnn.data.tiles import Tile
from frcnn.inference import Detections, Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.tiling import TiledDetector, Tiling, merge, thresholds_mismatch
from frcnn.weights.score_thresholds import ScoreThresholds

NMS_IOU = 0.5
CLASSES = ("cat", "dog")
OPTIONS = """
    image.min_size=[64] image.max_size=96 image.canvas_aspects=[1.0]
    backbone.name=resnet18 backbone.norm=gn fpn.channels=16
    anchors.sizes=[8,16,32,64,128] rpn.pre_nms_test=40 rpn.post_nms_test=15 roi_head.fc_channels=16 ops.kernel=reference
    roi_head.score_threshold=0.0
"""


def found(*rows: tuple[list[float], float, int]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([label for _, _, label in rows], np.int32),
        CLASSES,
    )


def perfect_detector(objects: np.ndarray, labels: np.ndarray, window: Tile, scores: np.ndarray) -> Detections:
    """What a detector without errors finds in a window: the visible part of every object that reaches into it."""
    offset = np.array([window.x, window.y] * 2)
    visible = np.clip(objects - offset, 0, [window.width, window.height] * 2)
    sides = visible[:, 2:] - visible[:, :2]
    rows = np.flatnonzero((sides > 2).all(axis=1))
    return found(*((visible[row].tolist(), float(scores[row]), int(labels[row])) for row in rows))


@pytest.mark.parametrize("seed", range(5))
def test_every_object_that_is_whole_in_a_tile_appears_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height, tiling = 1000, 700, Tiling(256, 0.2)
    grid = np.array([(x, y) for x in range(0, width - 60, 60) for y in range(0, height - 60, 60)], float)
    corners = grid + rng.uniform(0, 10, grid.shape)
    objects = np.concatenate([corners, corners + rng.uniform(15, 50, grid.shape)], axis=1)
    labels = rng.integers(1, 3, len(objects))
    windows = tiling.windows(width, height)
    # The whole image shows nothing: its objects are too small. Scores differ between tiles.
    parts = [perfect_detector(objects, labels, window, rng.uniform(0.6, 0.99, len(objects))) for window in windows[:-1]]
    merged = merge(windows, [*parts, found()], NMS_IOU)
    assert len(merged) == len(objects)
    assert (np.diff(merged.scores) <= 0).all()
    for box, label in zip(objects, labels, strict=True):
        same = np.abs(merged.boxes - box).max(axis=1) < 1e-3
        assert (same & (merged.labels == label)).sum() == 1


def test_an_object_larger_than_a_tile_is_that_of_the_whole_image() -> None:
    windows = Tiling(100, 0.2).windows(300, 100)
    objects, labels = np.array([[20.0, 10, 280, 90]]), np.array([1])
    parts = [perfect_detector(objects, labels, window, np.array([0.9])) for window in windows]
    merged = merge(windows, parts, NMS_IOU)
    assert merged.boxes.tolist() == objects.tolist()


def test_an_uncertain_box_does_not_hide_a_certain_piece() -> None:
    windows = Tiling(100, 0.2).windows(180, 100)
    piece, doubtful = found(([60, 20, 100, 60], 0.9, 1)), found(([55, 15, 140, 65], 0.1, 1))
    merged = merge(windows, [piece, found(), doubtful], NMS_IOU)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.1])


def test_classes_and_whole_boxes_inside_others_are_kept_apart() -> None:
    windows = Tiling(100, 0.2).windows(180, 100)
    first = found(([10, 10, 50, 50], 0.9, 1), ([10, 10, 50, 50], 0.8, 2), ([20, 20, 35, 35], 0.7, 1))
    merged = merge(windows, [first, found(), found()], NMS_IOU)
    assert sorted(merged.labels.tolist()) == [1, 1, 2]


def test_thresholds_that_were_chosen_with_other_tiles_or_options_are_reported() -> None:
    whole, tiled = (ScoreThresholds({"cat": 0.5}, "maximum F1", tiling) for tiling in (None, (512, 0.2)))
    assert thresholds_mismatch(None, Tiling(512, 0.2), "flip=true") is None
    assert thresholds_mismatch(whole, None, None) is None
    assert thresholds_mismatch(tiled, Tiling(512, 0.2), None) is None
    message = thresholds_mismatch(whole, Tiling(512, 0.2), "flip=true")
    assert message is not None
    assert "chosen with whole images, and are applied to tiles of 512 pixels" in message
    assert message.endswith("run frcnn thresholds --tile 512 --overlap 0.2 --test 'flip=true'")
    assert thresholds_mismatch(tiled, Tiling(1024, 0.2), None) is not None
    assert thresholds_mismatch(tiled, None, None) is not None
    flipped = ScoreThresholds({"cat": 0.5}, "maximum F1", None, "flip=true soft_nms=linear")
    assert thresholds_mismatch(flipped, None, "soft_nms=linear flip=true") is None
    assert thresholds_mismatch(flipped, None, "flip=true") is not None


@pytest.fixture(scope="module")
def detector() -> Detector:
    config = load_config(overrides=OPTIONS.split())
    keras.utils.set_random_seed(1)
    return Detector(build_model(len(CLASSES), config), config, CLASSES, (1, 2))


def test_images_not_larger_than_a_tile_are_detected_as_before_bit_by_bit(detector: Detector) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 64, 3), np.uint8)
    (plain,), (tiled,) = detector.detect(image), TiledDetector(detector, Tiling(64, 0.2)).detect(image)
    assert len(plain) > 0
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(tiled, name), getattr(plain, name))


def test_tiles_go_through_the_detector_at_their_own_scale(detector: Detector) -> None:
    """The merged result is the merge of what the detector finds in each crop, whatever the batch size."""
    image = np.random.default_rng(1).integers(0, 256, (64, 150, 3), np.uint8)
    tiling = Tiling(64, 0.2)
    windows = tiling.windows(150, 64)
    assert [window.x for window in windows] == [0, 43, 86, 0]
    alone = [detector.detect(np.ascontiguousarray(window.crop(image)))[0] for window in windows]
    expected = merge(windows, alone, detector.config.roi_head.nms_iou)
    assert len(expected) > len(alone[0])
    for batch_size in (1, 2):
        (tiled,) = TiledDetector(detector, tiling, batch_size).detect([image])
        assert tiled.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(tiled.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(tiled.scores, expected.scores, atol=1e-5)
