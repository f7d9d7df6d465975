from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frcnn import ops
from frcnn.config import Config, load_config
from frcnn.data.transforms import (
    Augmentation,
    Geometry,
    change_colors,
    compute_geometry,
    normalize,
    resized_size,
    sample_augmentation,
    to_canvas,
    transform_boxes,
)
from frcnn.ops.resize import resize_bilinear, resize_pillow


def test_torchvisions_truncation_makes_these_short_sides_799() -> None:
    found = [side for side in range(100, 1400) if resized_size(side, side, 800, 10**6, "bilinear")[0] == 799]
    assert len(found) == 64
    assert found[:16] == [161, 167, 193, 194, 195, 199, 289, 305, 322, 334, 335, 337, 369, 371, 385, 386]
    assert {387, 388, 390, 398} <= set(found)


def test_torchvisions_truncation_makes_these_long_sides_1332() -> None:
    found = [side for side in range(100, 1400) if resized_size(10, side, 800, 1333, "bilinear")[1] == 1332]
    assert len(found) == 39
    assert found[:12] == [149, 153, 298, 306, 311, 317, 329, 596, 601, 612, 622, 634]


@given(
    st.integers(20, 3000), st.integers(20, 3000), st.sampled_from([(800, 1333), (640, 1333), (320, 533), (100, 100)])
)
@settings(max_examples=300, deadline=None)
def test_detectron2s_sizes_are_rounded_half_up(height: int, width: int, sizes: tuple[int, int]) -> None:
    min_size, max_size = sizes
    scale = min(Fraction(min_size, min(height, width)), Fraction(max_size, max(height, width)))
    for side, got in zip((height, width), resized_size(height, width, min_size, max_size, "pillow"), strict=True):
        exact = side * scale
        if abs(exact % 1 - Fraction(1, 2)) > Fraction(1, 10**6):  # at a half, doubles decide either way
            assert got == max(int(exact + Fraction(1, 2)), 1)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (320, 426)), ((640, 480), (426, 320)), ((100, 1000), (53, 533))]
)
def test_sizes_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, 320, 533, "bilinear") == expected


def test_rounding_differs_from_truncation() -> None:
    assert resized_size(480, 640, 320, 533, "pillow") == (320, 427)  # 426.67


def slow_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The definition, pixel by pixel in double precision: half-pixel centers, edges repeated, no antialias."""
    out = np.zeros((height, width, image.shape[2]))
    for i in range(height):
        y = min(max((i + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
        for j in range(width):
            x = min(max((j + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
            top = image[y0, x0] * (1 - x + x0) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (1 - x + x0) + image[y1, x1] * (x - x0)
            out[i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return out


@pytest.mark.parametrize("size", [(7, 9), (30, 13), (11, 41), (1, 1), (17, 23)])
def test_bilinear_matches_its_definition(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        resize_bilinear(tf.constant(image), size), slow_bilinear(image.astype(float), *size), atol=2e-3
    )


def test_pillow_resize_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(resize_pillow(stripes, (16, 16))[4:-4, 4:-4].astype(int)) <= 2  # even grey
    assert np.ptp(resize_bilinear(tf.constant(stripes), (16, 13)).numpy()[4:-4, 1:-1]) > 100  # moiré


def options(*overrides: str) -> Config:
    return load_config(overrides=["image.min_size=[64]", "image.max_size=107", *overrides])


def test_normalization_and_padding_by_hand() -> None:
    image = options().image
    pixels = tf.constant(np.full((2, 3, 3), (255, 0, 128), np.uint8))
    canvas = to_canvas(pixels, [0, 0], [4, 5], image).numpy()
    expected = [(255 / 255 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    np.testing.assert_allclose(canvas[:2, :3], np.broadcast_to(expected, (2, 3, 3)), atol=2e-3)
    assert (canvas[2:] == 0).all()
    assert (canvas[:, 3:] == 0).all()
    detectron2 = options("image.channel_order=bgr", "image.mean=[103.53,116.28,123.675]", "image.std=[1,1,1]").image
    np.testing.assert_allclose(
        to_canvas(pixels, [0, 0], [4, 5], detectron2)[0, 0], [128 - 103.53, -116.28, 255 - 123.675], rtol=1e-6
    )


@pytest.mark.parametrize("conventions", ["torchvision", "detectron2"])
def test_the_model_normalizes_a_batch_as_the_pipeline_does_an_image(conventions: str) -> None:
    image = options(f"conventions={conventions}").image
    rng = np.random.default_rng(1)
    originals = [rng.integers(0, 256, (*size, 3), np.uint8) for size in [(4, 5), (2, 3), (3, 5)]]
    stored = np.zeros((3, 4, 5, 3), np.uint8)
    for row, pixels in zip(stored, originals, strict=True):
        row[: pixels.shape[0], : pixels.shape[1]] = pixels if image.channel_order == "rgb" else pixels[..., ::-1]
    sizes = tf.constant([pixels.shape[:2] for pixels in originals])
    expected = [to_canvas(tf.constant(pixels), [0, 0], [4, 5], image) for pixels in originals]
    np.testing.assert_array_equal(normalize(tf.constant(stored), sizes, image), expected)


def test_crop_takes_the_pixels_at_its_offset() -> None:
    image = options("image.mean=[0,0,0]", "image.std=[1,1,1]").image
    pixels = np.arange(6 * 7 * 3, dtype=np.float32).reshape(6, 7, 3)
    np.testing.assert_array_equal(to_canvas(tf.constant(pixels), [2, 3], [3, 2], image), pixels[2:5, 3:5])


def test_boxes_by_hand() -> None:
    boxes = np.array([[10, 20, 30, 60]], np.float32)
    whole = Geometry((50, 200), (0, 0), (50, 200))  # of an image of height 100, width 200
    moved, kept = transform_boxes(boxes, (100, 200), Augmentation(50), whole)
    assert moved.tolist() == [[10, 10, 30, 30]]
    assert kept.tolist() == [True]
    moved, _ = transform_boxes(boxes, (100, 200), Augmentation(50, horizontal_flip=True, vertical_flip=True), whole)
    assert moved.tolist() == [[170, 20, 190, 40]]
    # A crop of 30 x 100 at (y 25, x 15) of the image at twice the size; the second box is left 0.5 pixels wide.
    boxes = np.array([[10, 20, 30, 60], [2, 20, 7.75, 60], [60, 0, 90, 10]], np.float32)
    moved, kept = transform_boxes(boxes, (100, 200), Augmentation(50), Geometry((200, 400), (25, 15), (30, 100)))
    assert moved[0].tolist() == [5, 15, 45, 30]
    assert kept.tolist() == [True, False, False]


def test_objects_thinner_than_a_pixel_stay_where_nothing_is_cropped() -> None:
    boxes = np.array([[10, 20, 10.5, 60], [90, 20, 99, 60]], np.float32)
    _, kept = transform_boxes(boxes, (100, 100), Augmentation(50), Geometry((100, 100), (0, 0), (100, 80)))
    assert kept.tolist() == [True, False]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_boxes_stay_on_their_object_through_every_augmentation(data: st.DataObject) -> None:
    """A white rectangle on black, changed with its box: what is white afterwards is where the box is."""
    height, width = data.draw(st.integers(40, 120)), data.draw(st.integers(40, 120))
    x1, y1 = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    x2, y2 = data.draw(st.integers(x1 + 12, width)), data.draw(st.integers(y1 + 12, height))
    config = options().image
    augmentation = Augmentation(
        64,
        horizontal_flip=data.draw(st.booleans()),
        vertical_flip=data.draw(st.booleans()),
        scale=data.draw(st.sampled_from([1.0, 0.6, 1.7])),
        crop=(data.draw(st.floats(0, 0.999)), data.draw(st.floats(0, 0.999))),
    )
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    canvas = (64, 96) if width > height else (96, 64)
    geometry = compute_geometry(height, width, config, augmentation, canvas)
    canvas_pixels = ops.resize_to_canvas(
        tf.constant(pixels),
        ops.Placement(*map(tf.constant, (geometry.resized, geometry.offset, canvas))),
        method="bilinear",
        flips=tf.constant([augmentation.vertical_flip, augmentation.horizontal_flip]),
    )
    box, kept = transform_boxes(np.array([[x1, y1, x2, y2]], np.float32), (height, width), augmentation, geometry)
    rows, columns = np.nonzero(canvas_pixels.numpy()[..., 0] > 127)
    if not kept[0]:
        assert len(rows) == 0 or np.ptp(rows) < 2 or np.ptp(columns) < 2
    elif len(rows):
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(box[0], found, atol=1.01)
    visible_height, visible_width = geometry.visible
    assert visible_height <= canvas[0]
    assert visible_width <= canvas[1]


def test_colors_of_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert change_colors(pixels, (1.0, 1.0, 1.0)) is pixels
    np.testing.assert_allclose(change_colors(pixels, (1.3, 1.0, 1.0)), np.minimum(pixels * 1.3, 255), atol=1)
    grey = change_colors(pixels, (1.0, 1.0, 0.0))
    np.testing.assert_array_equal(grey[..., 1], np.asarray(Image.fromarray(pixels).convert("L")))
    assert np.ptp(change_colors(pixels, (1.0, 0.0, 1.0))) == 0
    changed = change_colors(pixels, (0.8, 1.2, 0.7))
    np.testing.assert_array_equal(changed[::-1, ::-1], change_colors(pixels[::-1, ::-1], (0.8, 1.2, 0.7)))


def test_draws_depend_on_seed_epoch_and_image_alone_and_cover_their_ranges() -> None:
    drawn = options(
        "augment.horizontal_flip=0.3",
        "augment.scale_range=[0.5,2.0]",
        "augment.color_jitter=0.2",
        "image.min_size=[32,48,64]",
    )
    assert sample_augmentation(drawn, 3, 17) == sample_augmentation(drawn, 3, 17)
    many = [sample_augmentation(drawn, epoch, image_id) for epoch in range(20) for image_id in range(50)]
    assert len(set(many)) == 1000
    assert 0.25 < np.mean([augmentation.horizontal_flip for augmentation in many]) < 0.35
    assert not any(augmentation.vertical_flip for augmentation in many)
    assert {augmentation.min_size for augmentation in many} == {32, 48, 64}
    scales = [augmentation.scale for augmentation in many]
    assert 0.5 <= min(scales) < 0.52 < 1.98 < max(scales) <= 2.0
    colors = np.array([augmentation.colors for augmentation in many])
    assert (colors.min(axis=0) < 0.81).all()
    assert (colors.max(axis=0) > 1.19).all()
    assert (np.abs(colors - 1) <= 0.2).all()


def test_enabling_an_option_does_not_change_the_other_draws() -> None:
    plain, jittered = options(), options("augment.color_jitter=0.5", "augment.scale_range=[0.5,2.0]")
    for image_id in range(30):
        assert (
            sample_augmentation(plain, 0, image_id).horizontal_flip
            == sample_augmentation(jittered, 0, image_id).horizontal_flip
        )
