"""Boxes and captions on images and sheets of images, drawn the same way by every command.

Drawing never raises because of what is drawn: boxes may be empty, outside the image or not finite, and captions may
hold any characters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
# Of lines and captions, relative to the square root of the image's area. They are at the upper end unless the objects
# are small: many small boxes would be hidden by their own lines and captions.
LINE_WIDTHS = (1 / 400, 1 / 200)
FONT_SIZES = (1 / 55, 1 / 32)
MIN_LINE, MIN_FONT = 2, 12  # pixels
MAX_SIDE = 65_500  # pixels; what a JPEG can hold
MAX_CAPTION = 100  # characters
DARK, LIGHT = (0, 0, 0), (255, 255, 255)  # edges of outlines
PAPER = (245, 245, 245)  # background of sheets
# Matplotlib's copy of DejaVu Sans: Pillow's built-in font has no letters beyond Latin.
_FONT_FILE = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def class_color(label: int) -> Color:
    """RGB of a class, the same in every image and run; ``label`` counts from 1."""
    hue = _HUES[(label - 1) % len(_HUES)]
    shade = _SHADES[(label - 1) // len(_HUES) % len(_SHADES)]
    if shade <= 1:
        return tuple(round(value * shade) for value in hue)  # type: ignore[return-value]
    return tuple(round(255 - (255 - value) * (2 - shade)) for value in hue)  # type: ignore[return-value]


def text_color(background: Color) -> Color:
    """Black or white, whichever can be read on a color."""
    luma = float(np.dot(background, (0.299, 0.587, 0.114)))  # Rec. 601
    return DARK if luma > 120 else LIGHT


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    captions: Sequence[str],
    colors: Sequence[Color],
    *,
    min_side: int = MIN_SIDE,
    max_side: int = MAX_SIDE,
    zoom: float = 1.0,
) -> Image.Image:
    """A copy of the image with an outline and a caption per box; the last box is drawn on top.

    An outline has a dark edge outside and a light one inside, so that it stands out from any background, its own color
    included.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        boxes: ``[N, 4]`` corners in pixels of the image.
        captions: one per box.
        colors: RGB, one per box.
        min_side: an image whose shorter side is smaller is enlarged to it, as long as the longer side stays below four
            times as much (a strip of 1 x 5000 pixels must not become enormous).
        max_side: an image whose longer side is larger is reduced to it.
        zoom: factor of line widths and captions, for an image that will be shown smaller than others.
    """
    canvas, scale = _resized(Image.fromarray(image), min_side, max_side)
    draw = ImageDraw.Draw(canvas)
    line, font_size = _sizes(canvas.size, np.asarray(boxes, np.float64).reshape(-1, 4) * scale, zoom)
    font = load_font(font_size)
    edge = max(1, line // 3)
    # Pillow overflows on coordinates far outside; an edge this far out is as invisible as one at its true place.
    limits = np.array([canvas.width, canvas.height] * 2) + 4 * line
    corners = np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4) * scale, nan=0.0)
    outlines = [tuple(box) for box in np.clip(corners, -4 * line, limits).tolist()]
    for (x1, y1, x2, y2), color in zip(outlines, colors, strict=True):
        x2, y2 = max(x1, x2), max(y1, y2)
        draw.rectangle((x1 - edge, y1 - edge, x2 + edge, y2 + edge), outline=DARK, width=edge)
        if min(x2 - x1, y2 - y1) > 2 * (line + edge):
            draw.rectangle((x1 + line, y1 + line, x2 - line, y2 - line), outline=LIGHT, width=edge)
        draw.rectangle((x1, y1, x2, y2), outline=color, width=line)
    # From the last box, which is the most important one, to the first: it gets the best place for its caption. They
    # are drawn the other way round, so that where there is no free place it covers the others.
    plates: list[_Plate] = []
    for outline, color, caption in zip(reversed(outlines), reversed(colors), reversed(captions), strict=True):
        if text := drawable_text(caption):
            plates.append(_place_caption(canvas.size, outline, text, color, font, plates))
    for plate in reversed(plates):
        plate.draw(draw, font)
    return canvas


def arrange(tiles: Sequence[Image.Image], columns: int, cell: tuple[int, int]) -> Image.Image:
    """A sheet of images in rows, each in the middle of a cell of ``cell`` (width, height) pixels."""
    rows = max(-(-len(tiles) // columns), 1)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), PAPER)
    for number, tile in enumerate(tiles):
        column, row = number % columns, number // columns
        place = (column * cell[0] + (cell[0] - tile.width) // 2, row * cell[1] + (cell[1] - tile.height) // 2)
        sheet.paste(tile, place)
    return sheet


def with_heading(image: Image.Image, text: str, size: int) -> Image.Image:
    """The image below a line of text, ``size`` pixels high and shortened to the image's width."""
    font, margin = load_font(size), max(size // 3, 1)
    shown = drawable_text(text)
    while len(shown) > 1 and font.getlength(shown) > image.width:
        shown = f"{shown[:-2]}…"
    headed = Image.new("RGB", (image.width, image.height + size + 2 * margin), PAPER)
    headed.paste(image, (0, size + 2 * margin))
    ImageDraw.Draw(headed).text((0, margin // 2), shown, "black", font)
    return headed


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


def _sizes(size: tuple[int, int], boxes: np.ndarray, zoom: float) -> tuple[int, int]:
    """Width of lines and height of captions, pixels, for boxes on a canvas of this size."""
    extent = (size[0] * size[1]) ** 0.5 * zoom
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    sides = sides[np.isfinite(sides) & (sides > 0)]
    typical = float(np.median(sides)) if sides.size else extent
    line = min(max(typical / 10, extent * LINE_WIDTHS[0]), extent * LINE_WIDTHS[1])
    font = min(max(typical / 2, extent * FONT_SIZES[0]), extent * FONT_SIZES[1])
    return max(MIN_LINE, round(line)), max(MIN_FONT, round(font))


class _Plate(NamedTuple):
    """A caption and its place: the corners of its background, and where the text starts."""

    corners: tuple[float, float, float, float]
    start: tuple[float, float]
    text: str
    color: Color

    def draw(self, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> None:
        contrast = text_color(self.color)
        draw.rectangle(self.corners, fill=self.color, outline=contrast)
        draw.text(self.start, self.text, contrast, font)


def _place_caption(
    size: tuple[int, int],
    box: tuple[float, ...],
    caption: str,
    color: Color,
    font: ImageFont.FreeTypeFont,
    taken: Sequence[_Plate],
) -> _Plate:
    """The caption above, inside, below or beside the box: at the first place that no other caption has taken.

    Inside only if the box is large enough to remain visible.
    """
    padding = max(1, round(font.size / 6))
    left, _, right, _ = font.getbbox(caption)
    width, height = right - left + 2 * padding, sum(font.getmetrics()) + padding
    x1, y1, x2, y2 = box
    places = [(x1, y1 - height), (x1, y2), (x2, y1), (x1 - width, y1)]
    if y2 - y1 > 3 * height:
        places[1:1] = [(x1, y1), (x1, y2 - height)]
    # Moved to the left where the image ends; beside the box that would be over the box.
    places = [(max(0.0, min(x, size[0] - width)) if x == x1 else x, y) for x, y in places]
    whole = [(x, y) for x, y in places if 0 <= y <= size[1] - height and 0 <= x <= max(0, size[0] - width)]
    whole = whole or [(max(0.0, min(x1, size[0] - width)), max(0.0, min(y1, size[1] - height)))]
    free = (
        (x, y) for x, y in whole if not any(_overlap((x, y, x + width, y + height), other.corners) for other in taken)
    )
    x, y = next(free, whole[0])
    return _Plate((x, y, x + width, y + height), (x + padding - left, y + padding / 2), caption, color)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
