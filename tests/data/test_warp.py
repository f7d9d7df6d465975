"""Rotation, shear, crop, blur and noise: boxes against points mapped one by one, pixels against a painted marker."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frcnn.config import Augment, Config, load_config
from frcnn.data.augmentation_sheet import TILE, TITLE_HEIGHT, draw_augmentations
from frcnn.data.coco import Index, load_index
from frcnn.data.example import Example, load_example
from frcnn.data.shapes import make_shapes
from frcnn.data.transforms import Augmentation, sample_augmentation
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.data.warp import Warp, sample_warp, warp_boxes, warp_matrix, warp_pixels

SIZE = (60, 100)  # height, width
FILL = (9, 8, 7)
NO_BOXES = np.zeros((0, 4), np.float32)
angles = st.floats(-180, 180)
warps = st.builds(
    Warp, rotation=angles, shear=st.tuples(st.floats(-30, 30), st.floats(-30, 30)), zoom=st.floats(0.3, 1.0),
    crop=st.tuples(st.floats(0, 1), st.floats(0, 1)), kept_box=st.floats(0, 0.99),
)  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=10, seed=0)
    return load_index(folder / "train", folder / "annotations" / "instances_train.json")


def map_point(x: float, y: float, warp: Warp) -> tuple[float, float]:
    """Shear, then rotation about the center of the image, without matrices."""
    x, y = x - SIZE[1] / 2, y - SIZE[0] / 2
    x, y = x + y * math.tan(math.radians(warp.shear[0])), y + x * math.tan(math.radians(warp.shear[1]))
    radius, angle = math.hypot(x, y), math.atan2(-y, x) + math.radians(warp.rotation)
    return radius * math.cos(angle) + SIZE[1] / 2, -radius * math.sin(angle) + SIZE[0] / 2


@given(warps, st.floats(0, 80), st.floats(0, 45), st.floats(1, 20), st.floats(1, 15))
@settings(max_examples=150, deadline=None)
def test_boxes_enclose_their_mapped_corners(warp: Warp, x: float, y: float, width: float, height: float) -> None:
    warp = warp._replace(zoom=1.0)
    corners = [
        map_point(*corner, warp) for corner in ((x, y), (x + width, y), (x, y + height), (x + width, y + height))
    ]
    xs, ys = zip(*corners, strict=True)
    expected = np.clip([min(xs), min(ys), max(xs), max(ys)], 0, [100, 60, 100, 60])
    box = np.array([[x, y, x + width, y + height]], np.float32)
    found, kept = warp_boxes(box, SIZE, warp_matrix(warp, SIZE, box))
    np.testing.assert_allclose(found[0], expected, atol=1e-3)
    if kept[0]:
        assert min(expected[2] - expected[0], expected[3] - expected[1]) > 0.99


def test_rotation_by_hand() -> None:
    box = np.array([[50, 30, 60, 40]], np.float32)  # right of and below the center
    found, kept = warp_boxes(box, SIZE, warp_matrix(Warp(rotation=90), SIZE, box))
    np.testing.assert_allclose(found, [[50, 20, 60, 30]], atol=1e-5)  # counterclockwise: right of and above it
    found, kept = warp_boxes(np.array([[0, 0, 10, 10]], np.float32), SIZE, warp_matrix(Warp(rotation=90), SIZE, box))
    assert not kept[0], "it is turned out of the image"


@pytest.mark.parametrize(
    "warp", [Warp(rotation=30), Warp(shear=(20, -10)), Warp(zoom=0.5, crop=(0.5, 0.5)), Warp(rotation=-75, zoom=0.8)]
)
def test_pixels_move_with_their_boxes(warp: Warp) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[28:34, 52:60] = 255
    box = np.array([[52, 28, 60, 34]], np.float32)
    matrix = warp_matrix(warp, SIZE, box)
    moved = warp_pixels(pixels, warp, matrix, FILL)
    (found,), kept = warp_boxes(box, SIZE, matrix)
    assert kept[0]
    ys, xs = np.nonzero(moved[..., 0] > 127)
    marker = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    np.testing.assert_allclose(marker, found, atol=2.0)
    # The center to a tenth of a pixel: weights are the interpolated values.
    weights = np.where((moved == FILL).all(axis=2), 0, moved[..., 0]).astype(float)
    center = [(weights.sum(axis=axis) @ (np.arange(weights.shape[1 - axis]) + 0.5)) / weights.sum() for axis in (0, 1)]
    np.testing.assert_allclose(center, matrix @ [56, 31, 1], atol=0.1)


def test_uncovered_places_have_the_fill_color() -> None:
    moved = warp_pixels(
        np.full((*SIZE, 3), 200, np.uint8), Warp(), warp_matrix(Warp(rotation=45), SIZE, NO_BOXES), FILL
    )
    assert tuple(moved[0, 0]) == FILL
    assert tuple(moved[30, 50]) == (200, 200, 200)


@given(warps, st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_a_crop_stays_inside_the_image_and_contains_a_whole_box(warp: Warp, seed: int) -> None:
    warp = warp._replace(rotation=0.0, shear=(0.0, 0.0))
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, [80, 45], (4, 2))
    boxes = np.concatenate([start, start + rng.uniform(2, 15, (4, 2))], axis=1).astype(np.float32)
    matrix = warp_matrix(warp, SIZE, boxes)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    window = np.array([inverse @ [0, 0, 1], inverse @ [100, 60, 1]])[:, :2]
    assert (window >= -1e-6).all()
    assert (window <= np.array([100, 60]) + 1e-6).all()
    np.testing.assert_allclose(window[1] - window[0], np.array([100, 60]) * warp.zoom)
    whole = (boxes[:, :2] >= window[0] - 1e-3).all(axis=1) & (boxes[:, 2:] <= window[1] + 1e-3).all(axis=1)
    fits = (boxes[:, 2:] - boxes[:, :2] <= np.array([100, 60]) * warp.zoom).all(axis=1)
    assert whole.any() or not fits.all()


def test_blur_and_noise() -> None:
    pixels = np.full((*SIZE, 3), 100, np.uint8)
    pixels[20:40, 40:60] = 180
    same = np.eye(2, 3)
    noisy = warp_pixels(pixels, Warp(noise=10.0, noise_seed=3), same, FILL).astype(float) - pixels
    assert abs(noisy.std() - 10.0) < 0.5
    assert abs(noisy.mean()) < 0.5
    again = warp_pixels(pixels, Warp(noise=10.0, noise_seed=3), same, FILL)
    np.testing.assert_array_equal(again, noisy + pixels)
    blurred = warp_pixels(pixels, Warp(blur=3.0), same, FILL).astype(float)
    assert abs(blurred.mean() - pixels.mean()) < 0.5
    assert np.abs(np.diff(blurred, axis=1)).max() < 20 < np.abs(np.diff(pixels.astype(float), axis=1)).max()


def test_off_changes_nothing_and_each_option_has_its_own_numbers() -> None:
    assert sample_warp(Augment(), [0]) is None
    alone, both = sample_warp(Augment(rotation=10), [0]), sample_warp(Augment(rotation=10, blur=2, noise=3), [0])
    assert alone is not None
    assert both is not None
    assert both._replace(blur=0.0, noise=0.0) == alone
    drawn = [sample_warp(Augment(rotation=10, shear=5, crop=0.5), [seed]) for seed in range(200)]
    assert all(
        abs(warp.rotation) <= 10 and max(map(abs, warp.shear)) <= 5 and 0.5 <= warp.zoom <= 1 for warp in drawn if warp
    )
    # The other augmentations of an example are those without a warp.
    plain = sample_augmentation(Config(), 3, 7)
    warped = sample_augmentation(load_config(None, ["augment.rotation=10"]), 3, 7)
    assert warped._replace(warp=None) == plain
    assert warped == sample_augmentation(load_config(None, ["augment.rotation=10"]), 3, 7)
    assert warped != sample_augmentation(load_config(None, ["augment.rotation=10"]), 4, 7)


def test_examples_and_the_sheet(index: Index, tmp_path: Path) -> None:
    record = next(image for image in index.images if len(image.labels) > 1)
    options = load_config(None, ["image.min_size=[240]", "image.max_size=320", "augment.noise=5", "augment.crop=0.5"])
    unreadable = UnreadableImages(index, max_share=1.0)

    def example(drawn: Augmentation) -> Example:
        return load_example(record, (320, 320), 8, options, drawn, unreadable)

    identity = Augmentation(240, warp=Warp())
    for with_warp, without in zip(example(identity), example(Augmentation(240)), strict=True):
        np.testing.assert_array_equal(with_warp, without)
    drawn = sample_augmentation(options, 0, record.image_id)
    augmented = example(drawn)
    boxes, labels = augmented.boxes, augmented.labels
    assert augmented.pixels.shape == (record.height, record.width, 3)
    assert 1 <= np.count_nonzero(labels) <= len(record.labels)
    assert set(labels[labels > 0]) <= set(record.labels)
    assert (boxes[labels > 0, 2:] > boxes[labels > 0, :2]).all()
    # A crowd region is moved, but is not what a crop is chosen for.
    crowded = replace(record, crowd=np.ones(len(record.labels), bool))
    assert load_example(crowded, (320, 320), 8, options, drawn, unreadable).crowd.any()

    draw_augmentations(record, {"none": Config(), "all": options}, tmp_path / "sheet.png", unreadable, range(3))
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (3 * TILE[0], 2 * (TILE[1] + TITLE_HEIGHT))
    assert len(unreadable) == 0
