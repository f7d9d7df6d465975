"""Annotated and detected boxes side by side, for the run's images folder and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from frcnn.data.coco import ImageRecord
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.drawing import MAX_SIDE, arrange, class_color, draw_boxes, with_heading
from frcnn.inference import Detections

MAX_SHEET_SIDE = 2048  # pixels of one image of a comparison: it is for viewing, and TensorBoard keeps it uncompressed
SHEET_ZOOM = 1.4  # two images share the width of a screen: their lines and captions are larger
HEADING_SHARE = 1 / 20  # height of a heading, relative to the shorter side of the image


def draw_objects(
    image: np.ndarray,
    record: ImageRecord,
    class_names: Sequence[str],
    max_side: int = MAX_SIDE,
    zoom: float = 1.0,
) -> Image.Image:
    """The image with its annotated boxes and class names; crowd regions are marked.

    Args:
        image: ``[H, W, 3]`` uint8 RGB, upright, of the record's size.
        max_side, zoom: as for :func:`frcnn.drawing.draw_boxes`.
    """
    captions = [
        class_names[label - 1] + (" (crowd)" if crowd else "")
        for label, crowd in zip(record.labels, record.crowd, strict=True)
    ]
    colors = [class_color(int(label)) for label in record.labels]
    return draw_boxes(image, record.boxes, captions, colors, max_side=max_side, zoom=zoom)


def draw_comparison(
    image: np.ndarray,
    record: ImageRecord,
    detections: Detections,
    class_names: Sequence[str],
    score_threshold: float = 0.5,
) -> Image.Image:
    """Annotated objects on the left, detections on the right, each under its heading."""
    found = int((detections.scores >= score_threshold).sum())
    halves = {
        f"annotated: {len(record.boxes)}": draw_objects(image, record, class_names, MAX_SHEET_SIDE, SHEET_ZOOM),
        f"detected: {found} with a score of {score_threshold:g} or more": detections.draw(
            image, score_threshold, MAX_SHEET_SIDE, SHEET_ZOOM
        ),
    }
    size = max(14, round(min(next(iter(halves.values())).size) * HEADING_SHARE))
    left, right = (with_heading(half, heading, size) for heading, half in halves.items())
    return arrange([left, right], 2, (left.width + size, left.height + size))


def draw_comparisons(
    records: Sequence[ImageRecord],
    results: Mapping[int, Detections],
    class_names: Sequence[str],
    folder: Path,
    max_pixels: int,
) -> list[np.ndarray]:
    """A sheet per image, annotated beside detected, ``[H, W, 3]`` uint8; also written as ``folder/validation_ID.jpg``.

    Images that cannot be read, or have more than ``max_pixels``, are skipped.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheets = []
    for record in records:
        try:
            pixels = decode_image(record.path, max_pixels)
        except UnreadableImage:
            continue
        sheet = draw_comparison(pixels, record, results[record.image_id], class_names)
        sheet.save(folder / f"validation_{record.image_id}.jpg")
        sheets.append(np.asarray(sheet))
    return sheets
