"""Images of more than 8 bits per sample, scaled to 8 bits by the range that the file declares or uses.

Cameras with 10, 12 or 14 bits store their samples in 16-bit files. Scaled by 65535 these would be nearly black.
"""

from __future__ import annotations

import functools
import io
import logging
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile

BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # of sensors and file formats
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281  # TIFF 6.0 tags
# Pillow keeps the upper byte of 16-bit color. Read in the other byte order, the same data gives the lower byte.
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_PNG_16_BITS = {2: "RGB;16B", 4: "LA;16B", 6: "RGBA;16B"}  # by color type, as Pillow names them
_ROWS = 256  # scaled at a time, which bounds the memory for the intermediate values

logger = logging.getLogger(__name__)


def read_deep_samples(image: ImageFile.ImageFile, encoded: bytes) -> np.ndarray | None:
    """Samples ``[H, W]`` or ``[H, W, 3]`` of an image with more than 8 bits per sample; None for other images.

    Loads the image; the samples are oriented like its pixels.
    """
    rawmode = _rawmode(image, encoded)
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return np.nan_to_num(np.array(image, np.float64), copy=False)
    if rawmode == "LA;16B":  # as four bytes per pixel: both of the sample, both of the transparency
        both = _load_as(encoded, "RGBA")
        return _join_bytes(both[..., 0], both[..., 1])
    if rawmode.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
        low = _load_as(encoded, rawmode[:-1] + _OTHER_ORDER[rawmode[-1]])
        return _join_bytes(np.asarray(image)[..., :3], low[..., :3])
    return None


def _load_as(encoded: bytes, rawmode: str) -> np.ndarray:
    """Pixels of an image whose stored samples are taken for another layout."""
    with Image.open(io.BytesIO(encoded), formats=["TIFF", "PNG"]) as image:
        image.tile = [tile._replace(args=(rawmode, *_arguments(tile)[1:])) for tile in image.tile]
        return np.asarray(image)


def _join_bytes(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples


def scale_to_8_bits(samples: np.ndarray, declared: int | None = None) -> np.ndarray:
    """Samples as uint8: the declared largest value, or else that of the smallest usual bit depth, becomes 255.

    Args:
        samples: any shape, not negative; floating-point samples of at most 1 are a range of 0 to 1.
        declared: largest value by the file; not used where a sample is larger.
    """
    largest = float(samples.max(initial=0.0))
    if declared is not None and largest <= declared:
        full, reason = float(declared), "declared by the file"
    elif samples.dtype.kind == "f" and largest <= 1.0:
        full, reason = 1.0, "used by the file"
    else:
        full = next((2.0**bits - 1 for bits in BIT_DEPTHS if largest < 2**bits), largest)
        reason = "used by the file"
    if full not in (1.0, 255.0, 65535.0):
        _report_once(full, reason)
    scaled = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), _ROWS):
        rows = slice(start, start + _ROWS)
        scaled[rows] = np.clip(samples[rows] * (255.0 / full) + 0.5, 0, 255)
    return scaled


def declared_maximum(image: ImageFile.ImageFile, encoded: bytes) -> int | None:
    """Largest sample value by the header of a PNG (chunk sBIT) or TIFF; None where it declares none or all 16 bits."""
    if image.format == "PNG":
        start = encoded.find(b"sBIT", 8, max(encoded.find(b"IDAT"), 8))
        length = int.from_bytes(encoded[start - 4 : start], "big") if start > 0 else 0
        bits = max(encoded[start + 4 : start + 4 + length], default=0)
        return 2**bits - 1 if 8 < bits < 16 else None
    if image.format != "TIFF":
        return None
    tags = getattr(image, "tag_v2", {})
    declared = [_first(tags.get(MAX_SAMPLE_VALUE)), 2 ** min(_first(tags.get(BITS_PER_SAMPLE)), 16) - 1]
    return next((value for value in declared if 255 < value < 65535), None)


def _first(value: object) -> int:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0


def _rawmode(image: ImageFile.ImageFile, encoded: bytes) -> str:
    """Layout of a TIFF's or PNG's samples, such as ``RGB;16L``; empty if it is unknown or differs between tiles."""
    if image.format == "PNG":  # which may be loaded already: its EXIF data can be at its end
        bits, color_type = encoded[24:26]
        return _PNG_16_BITS.get(color_type, "") if bits == 16 else ""
    if image.format != "TIFF":
        return ""
    modes = {_arguments(tile)[0] for tile in image.tile}
    return modes.pop() if len(modes) == 1 else ""


def _arguments(tile: ImageFile._Tile) -> tuple[Any, ...]:
    """Arguments of the tile's decoder; the layout of the samples comes first."""
    return tile.args if isinstance(tile.args, tuple) else (tile.args or "",)


@functools.cache
def _report_once(full: float, reason: str) -> None:
    logger.warning("images with samples of 0..%g (%s) are scaled to 0..255; reported once", full, reason)
