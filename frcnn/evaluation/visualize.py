"""Annotated and detected boxes side by side, for the run's images folder and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from frcnn.data.coco import ImageRecord
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.drawing import MAX_SIDE, class_color, draw_boxes, load_font
from frcnn.inference import Detections

MAX_SHEET_SIDE = 2048  # pixels of one image of a comparison: it is for viewing, and TensorBoard keeps it uncompressed


def draw_objects(
    image: np.ndarray, record: ImageRecord, class_names: Sequence[str], max_side: int = MAX_SIDE
) -> Image.Image:
    """The image with its annotated boxes and class names; crowd regions are marked.

    Args:
        image: ``[H, W, 3]`` uint8 RGB, upright, of the record's size.
        max_side: as for :func:`frcnn.drawing.draw_boxes`.
    """
    captions = [
        class_names[label - 1] + (" (crowd)" if crowd else "")
        for label, crowd in zip(record.labels, record.crowd, strict=True)
    ]
    colors = [class_color(int(label)) for label in record.labels]
    return draw_boxes(image, record.boxes, captions, colors, max_side=max_side)


def draw_comparison(
    image: np.ndarray,
    record: ImageRecord,
    detections: Detections,
    class_names: Sequence[str],
    score_threshold: float = 0.5,
) -> Image.Image:
    """Annotated objects on the left, detections on the right, each under its heading."""
    left = draw_objects(image, record, class_names, MAX_SHEET_SIDE)
    right = detections.draw(image, score_threshold, MAX_SHEET_SIDE)
    size = max(14, min(left.size) // 24)
    font, margin = load_font(size), size // 2
    top = size + 2 * margin
    sheet = Image.new("RGB", (2 * left.width + 3 * margin, left.height + top + margin), "white")
    draw = ImageDraw.Draw(sheet)
    found = int((detections.scores >= score_threshold).sum())
    for x, half, heading in (
        (margin, left, f"annotated: {len(record.boxes)}"),
        (left.width + 2 * margin, right, f"detected: {found} with a score of {score_threshold:g} or more"),
    ):
        draw.text((x, margin // 2), heading, "black", font)
        sheet.paste(half, (x, top))
    return sheet


def draw_comparisons(
    records: Sequence[ImageRecord], results: Mapping[int, Detections], class_names: Sequence[str], folder: Path
) -> list[np.ndarray]:
    """A sheet per image, annotated beside detected, ``[H, W, 3]`` uint8; also written as ``folder/validation_ID.jpg``.

    Images that cannot be read are skipped.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheets = []
    for record in records:
        try:
            pixels = decode_image(record.path)
        except UnreadableImage:
            continue
        sheet = draw_comparison(pixels, record, results[record.image_id], class_names)
        sheet.save(folder / f"validation_{record.image_id}.jpg")
        sheets.append(np.asarray(sheet))
    return sheets
