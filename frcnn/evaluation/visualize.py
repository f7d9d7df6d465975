"""Boxes on pictures: what predict writes, what the report shows and what TensorBoard gets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frcnn.data.coco import ImageRecord
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.inference import Detections

Color = tuple[int, int, int]

# Eight-hue palette of Okabe and Ito (2008), which people with any colour blindness can tell apart, without its black and
# with its yellow last because it is the weakest on bright pictures.
_HUES: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
_SHADES = (1.0, 0.62, 1.38)  # of the hues, so that 21 classes differ

SMALLEST_SIDE = 480  # pixels; smaller pictures are enlarged before drawing, so that labels can be read


def class_color(label: int) -> Color:
    """RGB of a class, the same in every picture and run; ``label`` counts from 1."""
    hue = _HUES[(label - 1) % len(_HUES)]
    shade = _SHADES[(label - 1) // len(_HUES) % len(_SHADES)]
    if shade <= 1:
        return tuple(round(value * shade) for value in hue)  # type: ignore[return-value]
    return tuple(round(255 - (255 - value) * (2 - shade)) for value in hue)  # type: ignore[return-value]


def draw_detections(
    image: np.ndarray, detections: Detections, class_names: Sequence[str], score_threshold: float = 0.5
) -> Image.Image:
    """Picture with the boxes, class names and scores of the detections at or above a score.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        detections: boxes in the image's pixels.
    """
    shown = np.flatnonzero(detections.scores >= score_threshold)[::-1]  # best last, so that nothing covers it
    captions = [f"{class_names[detections.labels[i] - 1]} {detections.scores[i]:.2f}" for i in shown]
    return _draw(
        image, detections.boxes[shown], [class_color(int(label)) for label in detections.labels[shown]], captions
    )


def draw_objects(image: np.ndarray, record: ImageRecord, class_names: Sequence[str]) -> Image.Image:
    """Picture with the annotated boxes and class names; crowd regions say so.

    Args:
        image: ``[H, W, 3]`` uint8 RGB, upright, of the record's size.
    """
    captions = [
        class_names[label - 1] + (" (crowd)" if crowd else "")
        for label, crowd in zip(record.labels, record.crowd, strict=True)
    ]
    return _draw(image, record.boxes, [class_color(int(label)) for label in record.labels], captions)


def draw_comparison(
    image: np.ndarray,
    record: ImageRecord,
    detections: Detections,
    class_names: Sequence[str],
    score_threshold: float = 0.5,
) -> Image.Image:
    """Annotated objects on the left, detections on the right, each under its heading."""
    left = draw_objects(image, record, class_names)
    right = draw_detections(image, detections, class_names, score_threshold)
    size = max(14, min(left.size) // 24)
    font, margin = _font(size), size // 2
    top = size + 2 * margin
    sheet = Image.new("RGB", (2 * left.width + 3 * margin, left.height + top + margin), "white")
    draw = ImageDraw.Draw(sheet)
    found = int((detections.scores >= score_threshold).sum())
    for x, picture, heading in (
        (margin, left, f"annotated: {len(record.boxes)}"),
        (left.width + 2 * margin, right, f"detected: {found} with a score of {score_threshold:g} or more"),
    ):
        draw.text((x, margin // 2), heading, "black", font)
        sheet.paste(picture, (x, top))
    return sheet


def draw_comparisons(
    records: Sequence[ImageRecord], results: Mapping[int, Detections], class_names: Sequence[str], folder: Path
) -> list[np.ndarray]:
    """Annotated beside detected, ``[H, W, 3]`` uint8 a picture; each is written as ``validation_ID.jpg`` into the folder as well.

    Pictures that cannot be read are left out.
    """
    folder.mkdir(exist_ok=True)
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


def _draw(image: np.ndarray, boxes: np.ndarray, colors: Sequence[Color], captions: Sequence[str]) -> Image.Image:
    picture = Image.fromarray(image)
    scale = max(1.0, SMALLEST_SIDE / min(picture.size))
    # A strip of 1 x 5000 pixels must not become an enormous picture.
    scale = min(scale, max(1.0, 4 * SMALLEST_SIDE / max(picture.size)))
    if scale > 1:
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
    draw = ImageDraw.Draw(picture)
    reach = (picture.width * picture.height) ** 0.5
    line = max(2, round(reach / 300))
    font = _font(max(12, round(reach / 45)))
    outlines = [tuple(float(value) for value in box * scale) for box in boxes]
    for (x1, y1, x2, y2), color in zip(outlines, colors, strict=True):
        # A dark edge on both sides keeps the line visible on a ground of its own colour.
        draw.rectangle((x1 - 1, y1 - 1, max(x1, x2) + 1, max(y1, y2) + 1), outline=(0, 0, 0), width=line + 2)
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=line)
    taken: list[tuple[float, float, float, float]] = []
    for outline, color, caption in zip(reversed(outlines), reversed(colors), reversed(captions), strict=True):
        _caption(draw, picture.size, outline, caption, color, font, taken)
    return picture


def _caption(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: tuple[float, ...],
    caption: str,
    color: Color,
    font: ImageFont.FreeTypeFont,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Caption plate above the box, else just inside, else below it: the first place in the picture that no better one has taken."""
    padding = max(1, round(font.size / 6))
    left, _, right, _ = font.getbbox(caption)
    width, height = right - left + 2 * padding, sum(font.getmetrics()) + padding
    x = max(0.0, min(box[0], size[0] - width))
    places = [y for y in (box[1] - height, box[1], box[3], box[3] - height) if 0 <= y <= size[1] - height]
    places = places or [max(0.0, min(box[1], size[1] - height))]
    free = (y for y in places if not any(_overlap((x, y, x + width, y + height), other) for other in taken))
    y = next(free, places[0])
    plate = (x, y, x + width, y + height)
    taken.append(plate)
    draw.rectangle(plate, fill=color)
    # Rec. 601 luma decides between black and white ink.
    ink = "black" if np.dot(color, (0.299, 0.587, 0.114)) > 120 else "white"
    draw.text((x + padding - left, y + padding / 2), caption, ink, font)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's own: Pillow's built-in font has no letters beyond Latin.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
