"""What augmentations do to an image: the examples that training would see, with their boxes, on one sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from frcnn.config import Config
from frcnn.data.coco import ImageRecord
from frcnn.data.example import load_example
from frcnn.data.plan import canvas_number, canvases
from frcnn.data.transforms import sample_augmentation
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.drawing import class_color, draw_boxes

TILE = (240, 180)  # width, height, pixels
TITLE_HEIGHT = 16
EPOCHS = 4  # examples in a row
BACKGROUND = (245, 245, 245)


def draw_augmentations(
    record: ImageRecord, rows: Mapping[str, Config], file: Path, unreadable: UnreadableImages, epochs: Sequence[int]
) -> None:
    """Write a PNG (or JPEG) with a row for each configuration: the image as training sees it in each of the epochs.

    Args:
        rows: configurations by the title of their row.
    """
    sheet = Image.new("RGB", (len(epochs) * TILE[0], len(rows) * (TILE[1] + TITLE_HEIGHT)), BACKGROUND)
    titles = ImageDraw.Draw(sheet)
    for row, (title, options) in enumerate(rows.items()):
        top = row * (TILE[1] + TITLE_HEIGHT)
        titles.text((4, top + 2), title, fill=(0, 0, 0))
        for column, epoch in enumerate(epochs):
            tile = augmented_image(record, options, epoch, unreadable)
            tile.thumbnail((TILE[0] - 4, TILE[1] - 4))
            sheet.paste(tile, (column * TILE[0] + 2, top + TITLE_HEIGHT))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, format="JPEG" if file.suffix.lower() in (".jpg", ".jpeg") else "PNG")


def augmented_image(record: ImageRecord, options: Config, epoch: int, unreadable: UnreadableImages) -> Image.Image:
    """The image that training sees in an epoch, without padding, with the boxes that are left of it."""
    canvas = canvases(options.image)[canvas_number(record.height, record.width, options.image)]
    drawn = sample_augmentation(options, epoch, record.image_id)
    example = load_example(record, canvas, max(len(record.labels), 1), options, drawn, unreadable)
    (height, width), (y, x), (visible_height, visible_width), (flip_y, flip_x) = example.geometry.tolist()
    flipped = example.pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    resized = Image.fromarray(flipped).resize((width, height), Image.Resampling.BILINEAR)
    shown = np.asarray(resized)[y : y + visible_height, x : x + visible_width]
    found = example.labels[example.labels > 0].tolist()
    return draw_boxes(
        shown, example.boxes[: len(found)], [""] * len(found), [class_color(label) for label in found], min_side=1
    )
