"""Images with detections and annotations: what is shown, in which color, and where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from frcnn.data.coco import ImageRecord
from frcnn.drawing import class_color
from frcnn.evaluation.visualize import (
    MAX_SHEET_SIDE,
    draw_comparison,
    draw_comparisons,
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
        ("cat", "dog"),
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


def changed(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != GREY).any(axis=2)


def test_detections_have_the_color_of_their_class() -> None:
    drawn = found(([200, 150, 500, 400], 0.9, 2)).draw(grey(600, 800))
    for x, y in ((200, 300), (500, 300), (350, 150), (350, 400)):
        assert drawn.getpixel((x, y)) == class_color(2)


def test_detections_below_the_score_are_not_drawn() -> None:
    detections = found(([200, 150, 500, 400], 0.49, 1))
    assert not changed(detections.draw(grey(600, 800))).any()
    assert changed(detections.draw(grey(600, 800), score_threshold=0.49)).any()


def test_a_comparison_has_the_truth_left_and_the_detections_right() -> None:
    sheet = draw_comparison(
        grey(600, 800), one_object(crowd=False), found(([500, 300, 700, 500], 0.9, 2)), ["cat", "dog"]
    )
    halves = np.split(np.asarray(sheet), [sheet.width // 2], axis=1)
    counts = [[int((half == class_color(label)).all(axis=2).sum()) for label in (1, 2)] for half in halves]
    assert [[count > 100 for count in half] for half in counts] == [[True, False], [False, True]]


def test_a_comparison_of_a_very_wide_image_can_be_saved(tmp_path: Path) -> None:
    sheet = draw_comparison(grey(4, 70_000), one_object(crowd=False), found(), ["cat"])
    assert sheet.width < 3 * MAX_SHEET_SIDE
    sheet.save(tmp_path / "wide.jpg")


def test_images_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    Image.fromarray(grey(600, 800)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    Image.fromarray(grey(601, 800)).save(tmp_path / "large.png")
    records = [
        dataclasses.replace(one_object(False), image_id=number, path=tmp_path / name)
        for number, name in enumerate(("whole.png", "cut.png", "large.png"))
    ]
    results = dict.fromkeys(range(3), found())
    sheets = draw_comparisons(records, results, ["cat"], tmp_path / "images", max_pixels=600 * 800)
    assert len(sheets) == 1
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["validation_0.jpg"]


def test_crowds_are_marked() -> None:
    plain, crowd = (draw_objects(grey(600, 800), one_object(crowd), ["cat"]) for crowd in (False, True))
    assert changed(crowd).sum() > changed(plain).sum() + 200
