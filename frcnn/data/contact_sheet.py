"""Examples of a data set with their boxes, on one picture."""

from __future__ import annotations

import colorsys
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frcnn.data.coco import ImageRecord, Index
from frcnn.data.decode import UnreadableImage, decode_image

TILE = (320, 240)  # width, height, pixels
COLUMNS = 4
EXAMPLES = 16


def draw_contact_sheet(index: Index, file: Path, without: Collection[Path] = ()) -> None:
    """Write a PNG of up to 16 examples that show as many classes as possible; images in ``without`` are passed over."""
    tiles = []
    for record in _examples(index, without):
        try:
            tiles.append(_tile(record, index.class_names))
        except UnreadableImage:
            continue
    rows = max(-(-len(tiles) // COLUMNS), 1)
    sheet = Image.new("RGB", (COLUMNS * TILE[0], rows * TILE[1]), (245, 245, 245))
    for number, tile in enumerate(tiles):
        column, row = number % COLUMNS, number // COLUMNS
        sheet.paste(
            tile, (column * TILE[0] + (TILE[0] - tile.width) // 2, row * TILE[1] + (TILE[1] - tile.height) // 2)
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, format="PNG")


def _examples(index: Index, without: Collection[Path]) -> list[ImageRecord]:
    """For each class, rarest first, one image that shows it; then images from all over the file."""
    usable = [record for record in index.images if record.path not in without]
    showing: dict[int, list[ImageRecord]] = {}
    for record in usable:
        for label in np.unique(record.labels).tolist():
            showing.setdefault(label, []).append(record)
    chosen: dict[int, ImageRecord] = {}
    shown: set[int] = set()
    for label, records in sorted(showing.items(), key=lambda item: len(item[1])):
        if label not in shown and len(chosen) < EXAMPLES:
            record = max(records[:100], key=lambda candidate: len(set(candidate.labels.tolist()) - shown))
            chosen[record.image_id] = record
            shown.update(record.labels.tolist())
    for position in np.linspace(0, len(usable) - 1, 4 * EXAMPLES).astype(int) if usable else ():
        if len(chosen) < EXAMPLES:
            chosen.setdefault(usable[position].image_id, usable[position])
    return list(chosen.values())


def _tile(record: ImageRecord, class_names: tuple[str, ...]) -> Image.Image:
    picture = Image.fromarray(decode_image(record.path))
    scale = min((TILE[0] - 8) / picture.width, (TILE[1] - 8) / picture.height)
    tile = picture.resize(
        (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), Image.Resampling.BOX
    )
    draw = ImageDraw.Draw(tile)
    ratio = np.array([tile.width / record.width, tile.height / record.height] * 2)
    for box, label, crowd in zip(record.boxes * ratio, record.labels.tolist(), record.crowd.tolist(), strict=True):
        x1, y1, x2, y2 = box.tolist()
        color = _color(label)
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color, width=1 if crowd else 2)
        name = class_names[label - 1] + (" (crowd)" if crowd else "")
        corner = (x1 + 2, max(y1 - 11, 0))
        draw.rectangle(draw.textbbox(corner, name, font=_FONT), fill=color)
        draw.text(corner, name, fill="white", font=_FONT)
    return tile


def _color(label: int) -> tuple[int, int, int]:
    """Steps of the golden angle keep neighbouring labels apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.61803 % 1.0, 0.85, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


_FONT = ImageFont.load_default(10)
