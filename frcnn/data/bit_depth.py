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

logger = logging.getLogger(__name__)


def read_deep_samples(image: ImageFile.ImageFile, encoded: bytes) -> np.ndarray | None:
    """Samples ``[H, W]`` or ``[H, W, 3]`` of an image with more than 8 bits per sample; None for other images.

    Loads the image; the samples are oriented like its pixels.
    """
    rawmode = _rawmode(image) if image.format == "TIFF" else ""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return np.nan_to_num(np.asarray(image, np.float64))
    if image.format == "PNG" and encoded[24] == 16:
        import tensorflow as tf

        with tf.device("CPU:0"):
            return np.array(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16))
    if rawmode.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
        with Image.open(io.BytesIO(encoded)) as again:
            other = rawmode[:-1] + _OTHER_ORDER[rawmode[-1]]
            again.tile = [tile._replace(args=(other, *_arguments(tile)[1:])) for tile in again.tile]
            low, high = (np.asarray(pixels)[..., :3].astype(np.uint16) for pixels in (again, image))
        return high * np.uint16(256) + low
    return None


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
    return np.clip(samples * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)


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


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Layout of the stored samples, such as ``RGB;16L``; empty where it is not the same for all tiles."""
    modes = {_arguments(tile)[0] for tile in image.tile}
    return modes.pop() if len(modes) == 1 else ""


def _arguments(tile: ImageFile._Tile) -> tuple[Any, ...]:
    """Arguments of the tile's decoder; the layout of the samples comes first."""
    return tile.args if isinstance(tile.args, tuple) else (tile.args or "",)


@functools.cache
def _report_once(full: float, reason: str) -> None:
    logger.warning("images with samples of 0..%g (%s) are scaled to 0..255; reported once", full, reason)
