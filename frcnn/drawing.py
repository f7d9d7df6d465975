"""Boxes and captions on images, drawn the same way by every command: colors of classes, fonts, line widths.

Drawing never raises because of what is drawn: boxes may be empty, outside the image or not finite, and captions may
hold any characters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from anyascii import anyascii
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

# Eight-hue palette of Okabe and Ito (2008), distinguishable with any color blindness, without its black, and with its
# yellow last because it is the weakest on bright images.
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

MIN_SIDE = 480  # pixels; smaller images are enlarged before drawing, so that captions can be read
MAX_SIDE = 65_500  # pixels; what a JPEG can hold
MAX_CAPTION = 100  # characters
# Matplotlib's copy of DejaVu Sans: Pillow's built-in font has no letters beyond Latin.
_FONT_FILE = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def class_color(label: int) -> Color:
    """RGB of a class, the same in every image and run; ``label`` counts from 1."""
    hue = _HUES[(label - 1) % len(_HUES)]
    shade = _SHADES[(label - 1) // len(_HUES) % len(_SHADES)]
    if shade <= 1:
        return tuple(round(value * shade) for value in hue)  # type: ignore[return-value]
    return tuple(round(255 - (255 - value) * (2 - shade)) for value in hue)  # type: ignore[return-value]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    captions: Sequence[str],
    colors: Sequence[Color],
    *,
    min_side: int = MIN_SIDE,
    max_side: int = MAX_SIDE,
) -> Image.Image:
    """A copy of the image with an outline and a caption per box; the last box is drawn on top.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        boxes: ``[N, 4]`` corners in pixels of the image.
        captions: one per box.
        colors: RGB, one per box.
        min_side: an image whose shorter side is smaller is enlarged to it, as long as the longer side stays below four
            times as much (a strip of 1 x 5000 pixels must not become enormous).
        max_side: an image whose longer side is larger is reduced to it.
    """
    canvas, scale = _resized(Image.fromarray(image), min_side, max_side)
    draw = ImageDraw.Draw(canvas)
    extent = (canvas.width * canvas.height) ** 0.5
    line = max(2, round(extent / 300))
    font = load_font(max(12, round(extent / 45)))
    # Pillow overflows on coordinates far outside; an edge this far out is as invisible as one at its true place.
    limits = np.array([canvas.width, canvas.height] * 2) + 4 * line
    corners = np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4) * scale, nan=0.0)
    outlines = [tuple(box) for box in np.clip(corners, -4 * line, limits).tolist()]
    for (x1, y1, x2, y2), color in zip(outlines, colors, strict=True):
        # A dark edge on both sides keeps the line visible on a background of the same color.
        draw.rectangle((x1 - 1, y1 - 1, max(x1, x2) + 1, max(y1, y2) + 1), outline=(0, 0, 0), width=line + 2)
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=line)
    taken: list[tuple[float, float, float, float]] = []
    # From the last box, which is the most important one, to the first: it gets the best place for its caption.
    for outline, color, caption in zip(reversed(outlines), reversed(colors), reversed(captions), strict=True):
        _draw_caption(draw, canvas.size, outline, drawable_text(caption), color, font, taken)
    return canvas


def drawable_text(text: str) -> str:
    """``text`` in characters that the font has, on one line and of at most ``MAX_CAPTION`` characters.

    Letters of other scripts are transliterated (``"猫"`` becomes ``"Mao"``), whitespace becomes a space, and control
    characters and lone surrogates become ``"\N{REPLACEMENT CHARACTER}"``.
    """
    if len(text) > MAX_CAPTION:
        half = MAX_CAPTION // 2  # both ends are kept: a score stands at the end
        text = f"{text[: half - 1]}…{text[-half:]}"
    known = _characters_of_font()
    shown = "".join(
        character
        if character.isprintable() and ord(character) in known
        else " "
        if character.isspace()
        else (character.isprintable() and anyascii(character)) or "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    return shown[:MAX_CAPTION]


@functools.cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all captions, ``size`` pixels high."""
    return ImageFont.truetype(_FONT_FILE, size)


@functools.cache
def _characters_of_font() -> frozenset[int]:
    """Code points that have a glyph."""
    return frozenset(FT2Font(str(_FONT_FILE)).get_charmap())


def _resized(image: Image.Image, min_side: int, max_side: int) -> tuple[Image.Image, float]:
    """The image as it is drawn on, and its size relative to the original."""
    scale = max(1.0, min_side / min(image.size))
    scale = min(scale, max(1.0, 4 * min_side / max(image.size)), max_side / max(image.size))
    if scale == 1:
        return image, scale
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.BICUBIC), scale


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: tuple[float, ...],
    caption: str,
    color: Color,
    font: ImageFont.FreeTypeFont,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Draw the caption above the box, just inside or below it: at the first place that no earlier caption has taken."""
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
    # Rec. 601 luma decides between black and white text.
    ink = "black" if np.dot(color, (0.299, 0.587, 0.114)) > 120 else "white"
    draw.text((x + padding - left, y + padding / 2), caption, ink, font)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
