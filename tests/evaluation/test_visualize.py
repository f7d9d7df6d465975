"""Pictures: what is drawn is where it should be and can be read."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.data.coco import ImageRecord
from frcnn.evaluation.visualize import (
    SMALLEST_SIDE,
    class_color,
    draw_comparison,
    draw_comparisons,
    draw_detections,
    draw_objects,
)
from frcnn.inference import Detections

GREY = 100


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def found(*boxes: tuple[list[float], float, int]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in boxes], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in boxes], np.float32),
        np.array([label for _, _, label in boxes], np.int32),
    )


def one_object(crowd: bool) -> ImageRecord:
    return ImageRecord(
        image_id=1,
        path=Path("a.png"),
        width=800,
        height=600,
        boxes=np.array([[100, 100, 200, 200]], np.float32),
        labels=np.array([1], np.int32),
        areas=np.array([1e4], np.float32),
        crowd=np.array([crowd]),
        annotation_ids=np.array([1]),
    )


def changed(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) != GREY).any(axis=2)


def color_at(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return picture.getpixel((x, y))  # type: ignore[return-value]


def test_outlines_are_on_the_edges_in_the_colour_of_the_class() -> None:
    picture = draw_detections(grey(600, 800), found(([200, 150, 500, 400], 0.9, 2)), ["cat", "dog"])
    assert picture.size == (800, 600)
    for x, y in ((200, 300), (500, 300), (350, 150), (350, 400)):
        assert color_at(picture, x, y) == class_color(2)
    assert not changed(picture)[200:350, 250:450].any()  # nothing inside the box
    plate = changed(picture)[:148]
    assert plate.any()  # the caption stands above the box
    assert color_at(picture, 202, 147) == class_color(2)


@pytest.mark.parametrize(
    "box", [[0, 0, 800, 600], [0, 0, 40, 20], [780, 590, 800, 600], [300, 0, 700, 600], [-5, -5, 805, 605]]
)
def test_captions_are_whole_inside_the_picture_wherever_the_box_is(box: list[float]) -> None:
    """With the caption gone, what is left of the drawing is the outline alone: the caption's share is the same everywhere."""

    def ink(name: str) -> int:
        return int(changed(draw_detections(grey(600, 800), found((box, 0.99, 1)), [name])).sum())

    longer = ink("a class name of many letters") - ink("a")
    assert longer > 100 * 15  # pixels: the plate's further length times its height, less what lies on the outline


def test_detections_below_the_score_are_not_drawn() -> None:
    detections = found(([200, 150, 500, 400], 0.49, 1))
    assert not changed(draw_detections(grey(600, 800), detections, ["cat"])).any()
    assert changed(draw_detections(grey(600, 800), detections, ["cat"], score_threshold=0.49)).any()


def test_small_pictures_are_enlarged_and_boxes_with_them() -> None:
    picture = draw_detections(grey(32, 48), found(([12, 8, 36, 24], 0.9, 1)), ["cat"])
    factor = SMALLEST_SIDE / 32
    assert picture.size == (48 * factor, SMALLEST_SIDE)
    assert color_at(picture, round(36 * factor), round(16 * factor)) == class_color(1)


def test_a_thin_strip_does_not_become_enormous() -> None:
    assert max(draw_detections(grey(1, 1500), found(), []).size) <= 4 * SMALLEST_SIDE


@pytest.mark.parametrize("box", [[30, 30, 30, 30], [50, 50, 40, 40]])
def test_boxes_without_area_do_not_stop_the_drawing(box: list[float]) -> None:
    assert changed(draw_detections(grey(500, 500), found((box, 0.9, 1)), ["cat"])).any()


def test_names_in_other_alphabets_are_written() -> None:
    def written(name: str) -> np.ndarray:
        return np.asarray(draw_detections(grey(500, 500), found(([100, 200, 300, 400], 0.9, 1)), [name]))

    assert (written("клетка") != written("клеика")).any()  # two missing glyphs would look the same


def test_the_first_classes_have_colours_of_their_own() -> None:
    colors = [np.array(class_color(label), float) for label in range(1, 22)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 30
    assert class_color(1) == (230, 159, 0)
    assert all(0 <= value <= 255 for color in colors for value in color)


def test_a_comparison_has_the_truth_left_and_the_detections_right() -> None:
    sheet = draw_comparison(
        grey(600, 800), one_object(crowd=False), found(([500, 300, 700, 500], 0.9, 2)), ["cat", "dog"]
    )
    halves = np.split(np.asarray(sheet), [sheet.width // 2], axis=1)
    counts = [[int((half == class_color(label)).all(axis=2).sum()) for label in (1, 2)] for half in halves]
    assert [[count > 100 for count in half] for half in counts] == [[True, False], [False, True]]


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    Image.fromarray(grey(600, 800)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    whole = dataclasses.replace(one_object(False), image_id=0, path=tmp_path / "whole.png")
    cut = dataclasses.replace(one_object(False), image_id=1, path=tmp_path / "cut.png")
    sheets = draw_comparisons([whole, cut], {0: found(), 1: found()}, ["cat"], tmp_path / "pictures")
    assert len(sheets) == 1
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["validation_0.jpg"]


def test_crowds_say_so() -> None:
    plain, crowd = (draw_objects(grey(600, 800), one_object(crowd), ["cat"]) for crowd in (False, True))
    assert changed(crowd).sum() > changed(plain).sum() + 200
