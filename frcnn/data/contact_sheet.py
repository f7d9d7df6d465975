"""Examples of a dataset with their boxes, on one image."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from frcnn.data.coco import ImageRecord, Index
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.data.image_limits import DEFAULT_MAX_PIXELS
from frcnn.drawing import arrange, class_color, draw_boxes

TILE = (320, 240)  # width, height, pixels
MARGIN = 4  # pixels around an example
COLUMNS = 4
EXAMPLES = 16
CANDIDATES = 100  # images of a class that are compared for the number of other classes that they show


def draw_contact_sheet(
    index: Index, file: Path, skip: Collection[Path] = (), max_pixels: int = DEFAULT_MAX_PIXELS
) -> None:
    """Write a PNG of up to 16 examples that show as many classes as possible; images in ``skip`` are not used."""
    tiles = []
    for record in _examples(index, skip):
        try:
            tiles.append(_tile(record, index.class_names, max_pixels))
        except UnreadableImage:
            continue
    sheet = arrange(tiles, COLUMNS, TILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, format="PNG")


def _examples(index: Index, skip: Collection[Path]) -> list[ImageRecord]:
    """For each class, rarest first, one image that shows it; then images spread over the file."""
    usable = [record for record in index.images if record.path not in skip]
    images_of: dict[int, list[ImageRecord]] = {}
    for record in usable:
        for label in np.unique(record.labels).tolist():
            images_of.setdefault(label, []).append(record)
    chosen: dict[int, ImageRecord] = {}
    shown: set[int] = set()
    for label, records in sorted(images_of.items(), key=lambda item: len(item[1])):
        if label not in shown and len(chosen) < EXAMPLES:
            record = max(records[:CANDIDATES], key=lambda candidate: len(set(candidate.labels.tolist()) - shown))
            chosen[record.image_id] = record
            shown.update(record.labels.tolist())
    for position in np.linspace(0, len(usable) - 1, 4 * EXAMPLES).astype(int) if usable else ():
        if len(chosen) < EXAMPLES:
            chosen.setdefault(usable[position].image_id, usable[position])
    return list(chosen.values())


def _tile(record: ImageRecord, class_names: tuple[str, ...], max_pixels: int) -> Image.Image:
    image = Image.fromarray(decode_image(record.path, max_pixels))
    scale = min((TILE[0] - 2 * MARGIN) / image.width, (TILE[1] - 2 * MARGIN) / image.height)
    small = image.resize(
        (max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.BOX
    )
    boxes = record.boxes * np.array([small.width / record.width, small.height / record.height] * 2)
    labels, crowd = record.labels.tolist(), record.crowd.tolist()
    captions = [class_names[label - 1] + " (crowd)" * is_crowd for label, is_crowd in zip(labels, crowd, strict=True)]
    return draw_boxes(np.asarray(small), boxes, captions, [class_color(label) for label in labels], min_side=1)
