"""Boxes on images: they are drawn where they should be, can be read, and nothing in them makes drawing fail."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from frcnn.drawing import MAX_CAPTION, MAX_SIDE, MIN_SIDE, class_color, draw_boxes, drawable_text, load_font

GREY = 100
RED = (200, 30, 40)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def draw_one(image: np.ndarray, box: list[float], caption: str = "cat") -> Image.Image:
    return draw_boxes(image, np.array([box]), [caption], [RED])


def changed(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != GREY).any(axis=2)


def test_outlines_are_on_the_edges_in_the_given_color() -> None:
    drawn = draw_one(grey(600, 800), [200, 150, 500, 400])
    assert drawn.size == (800, 600)
    for x, y in ((200, 300), (500, 300), (350, 150), (350, 400)):
        assert drawn.getpixel((x, y)) == RED
    assert not changed(drawn)[200:350, 250:450].any()  # nothing inside the box
    assert drawn.getpixel((202, 147)) == RED  # the caption's background is above the box


@pytest.mark.parametrize(
    "box", [[0, 0, 800, 600], [0, 0, 40, 20], [780, 590, 800, 600], [300, 0, 700, 600], [-5, -5, 805, 605]]
)
def test_captions_are_whole_inside_the_image_wherever_the_box_is(box: list[float]) -> None:
    def ink(name: str) -> int:
        return int(changed(draw_one(grey(600, 800), box, name)).sum())

    # The outline is the same in both. Left over is the longer caption's further length times its height, without
    # outline.
    assert ink("a class name of many letters 0.99") - ink("a 0.99") > 100 * 15


def test_small_images_are_enlarged_and_boxes_with_them() -> None:
    drawn = draw_one(grey(32, 48), [12, 8, 36, 24])
    factor = MIN_SIDE / 32
    assert drawn.size == (48 * factor, MIN_SIDE)
    assert drawn.getpixel((round(36 * factor), round(16 * factor))) == RED
    assert draw_boxes(grey(32, 48), np.zeros((0, 4)), [], [], min_side=1).size == (48, 32)


def test_long_sides_are_limited() -> None:
    assert max(draw_one(grey(1, 1500), [0, 0, 9, 1]).size) <= 4 * MIN_SIDE
    wide = draw_one(grey(2, MAX_SIDE + 1000), [0, 0, 9, 1])
    assert wide.width == MAX_SIDE
    wide.save(io.BytesIO(), "JPEG")  # Pillow refuses sides above 65,535 pixels
    reduced = draw_boxes(grey(600, 3000), np.array([[1500, 100, 2400, 500]]), [""], [RED], max_side=1000)
    assert reduced.size == (1000, 200)
    assert reduced.getpixel((800, 100)) == RED


@pytest.mark.parametrize(
    "box",
    [
        [30, 30, 30, 30],
        [50, 50, 40, 40],
        [-1e30, -1e30, 1e30, 1e30],
        [float("nan"), 0, 30, 30],
        [float("-inf"), 20, float("inf"), 40],
    ],
)
def test_no_box_makes_drawing_fail(box: list[float]) -> None:
    assert changed(draw_one(grey(500, 500), box)).any()


def test_a_box_around_the_image_shows_no_edges() -> None:
    drawn = draw_one(grey(500, 500), [-1e30, -1e30, 1e30, 1e30], "")
    assert not changed(drawn)[100:].any()


@pytest.mark.parametrize(
    "caption", ["", "\x00", "two\nlines", "\x1b[31mred", "\ud800", "猫", "🐈", "é", "x" * 2_000_000]
)
def test_no_caption_makes_drawing_fail(caption: str) -> None:
    assert changed(draw_one(grey(500, 500), [10, 200, 300, 400], caption)).any()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dog 0.93", "dog 0.93"),
        ("клетка", "клетка"),
        ("猫 0.93", "Mao 0.93"),
        ("two\nlines\tmore", "two lines more"),
        ("\x1b[31m\x00", "�[31m�"),
        ("\ud800", "�"),
    ],
)
def test_captions_in_characters_of_the_font(text: str, shown: str) -> None:
    assert drawable_text(text) == shown


def test_long_captions_keep_both_ends() -> None:
    shown = drawable_text("begin " + "x" * 5000 + " 0.93")
    assert len(shown) == MAX_CAPTION
    assert shown.startswith("begin ")
    assert shown.endswith(" 0.93")


def test_names_in_other_alphabets_are_legible() -> None:
    def written(name: str) -> np.ndarray:
        return np.asarray(draw_one(grey(500, 500), [100, 200, 300, 400], name))

    assert (written("клетка") != written("клеика")).any()  # two missing glyphs would look the same
    assert load_font(20).getbbox("Ж") != load_font(20).getbbox("Щ")


def test_the_first_classes_have_distinct_colors() -> None:
    colors = [np.array(class_color(label), float) for label in range(1, 22)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 30
    assert class_color(1) == (230, 159, 0)
    assert all(0 <= value <= 255 for color in colors for value in color)
