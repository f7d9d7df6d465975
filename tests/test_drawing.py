"""Boxes on images: they are drawn where they should be, can be read, and nothing in them makes drawing fail."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from frcnn.drawing import (
    DARK,
    LIGHT,
    MAX_CAPTION,
    MAX_SIDE,
    MIN_SIDE,
    arrange,
    class_color,
    draw_boxes,
    drawable_text,
    load_font,
    with_heading,
)

GREY = 100
RED = (200, 30, 40)
LINE = 3  # pixels, of an image of 800 x 600 with a large box: the square root of its area / 200


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
    assert drawn.getpixel((199, 300)) == DARK
    assert drawn.getpixel((200 + LINE, 300)) == LIGHT
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


@pytest.mark.parametrize("background", [*((grey, grey, grey) for grey in range(0, 256, 51)), class_color(1), RED])
def test_an_outline_stands_out_from_any_background(background: tuple[int, int, int]) -> None:
    """WCAG asks for a contrast of 3 of graphics; the outline has two edges, and the better one counts."""

    def luminance(color: np.ndarray) -> np.ndarray:
        share = color / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    image = np.full((600, 800, 3), background, np.uint8)
    drawn = np.asarray(draw_boxes(image, np.array([[200, 150, 500, 400]]), [""], [background]))
    behind, across = luminance(np.array(background)), luminance(drawn[300, 195:210].astype(float))
    contrast = (np.maximum(across, behind) + 0.05) / (np.minimum(across, behind) + 0.05)
    assert contrast.max() >= 3


def test_lines_and_captions_scale_with_the_image() -> None:
    def measured(factor: int, zoom: float = 1.0) -> tuple[int, int]:
        image = grey(600 * factor, 800 * factor)
        box = np.array([[200, 150, 500, 400]]) * factor
        drawn = np.asarray(draw_boxes(image, box, ["a"], [RED], zoom=zoom))
        red = (drawn == RED).all(axis=2)
        row, column = red[300 * factor, : 300 * factor], red[: 150 * factor - LINE, 201 * factor]
        return int(row.sum()), int(column.sum())

    (line, caption), (large_line, large_caption) = measured(1), measured(4)
    assert line == LINE
    assert large_line == pytest.approx(4 * line, abs=3)  # rounded to pixels
    assert large_caption == pytest.approx(4 * caption, rel=0.15)
    assert measured(1, zoom=2)[0] == pytest.approx(2 * line, abs=1)


def test_many_small_boxes_have_finer_lines_and_smaller_captions() -> None:
    def ink(side: int) -> int:
        drawn = draw_boxes(grey(1200, 1600), np.array([[800, 600, 800 + side, 600 + side]]), ["platelet"], [RED])
        return int(changed(drawn)[:600].sum())  # above the box: the caption

    assert ink(20) < 0.6 * ink(400)


def test_captions_do_not_hide_small_boxes_or_each_other() -> None:
    corners = [(x, y) for x in range(100, 1500, 350) for y in range(100, 1100, 120)]
    boxes = np.array([[x, y, x + 30, y + 30] for x, y in corners], float)
    drawn = np.asarray(draw_boxes(grey(1200, 1600), boxes, ["platelet 0.98"] * len(boxes), [RED] * len(boxes)))
    for x, y in corners:
        assert (drawn[y + 10 : y + 20, x + 10 : x + 20] == GREY).all()
    alone = np.asarray(draw_boxes(grey(1200, 1600), boxes[:1], ["platelet 0.98"], [RED]))
    assert changed(Image.fromarray(drawn)).sum() == len(boxes) * changed(Image.fromarray(alone)).sum()


def test_a_sheet_has_its_images_in_rows_in_the_middle_of_their_cells() -> None:
    tiles = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    sheet = arrange(tiles, 2, (40, 30))
    assert sheet.size == (80, 60)
    assert [sheet.getpixel(at) for at in ((20, 15), (60, 15), (20, 45))] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert sheet.getpixel((5, 15)) == sheet.getpixel((60, 45)) == (245, 245, 245)


def test_headings_are_shortened_to_the_image() -> None:
    image = Image.fromarray(grey(50, 200))
    headed = with_heading(image, "a heading much longer than the image is wide", 20)
    assert headed.width == 200
    np.testing.assert_array_equal(np.asarray(headed)[-50:], np.asarray(image))
    assert (np.asarray(headed)[:-50] < 100).sum() > 100
