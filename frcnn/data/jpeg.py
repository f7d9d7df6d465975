"""Detection of truncated JPEG files that end with an end-of-image marker.

Some programs append the marker to a partial download. libjpeg then reports success and takes the missing coefficients
as zero: a uniform grey down to the lower right corner or, in a progressive file, blocks with less detail.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

START_OF_SCAN, PROGRESSIVE_FRAME, END_OF_IMAGE = 0xDA, 0xC2, b"\xff\xd9"
GREY = 128.0  # luma of a block without coefficients
TOLERANCE = 2.0
# Arbitrary entropy-coded data: no byte is 0xFF, which would start a marker.
PADDING = bytes((37 * position + 11) % 255 for position in range(4096))


def is_truncated(encoded: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Whether scan data is missing before the end marker of a JPEG that was decoded without an error.

    More data before the end marker changes a truncated image, while a decoder ignores data that follow a complete one.
    Only images whose last pixel is grey and progressive ones are decoded again. A progressive file that ends exactly
    between two scans is not recognized.

    Args:
        encoded: the file.
        pixels: ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]`` uint8 as ``decode`` returns them.
        decode: decodes the bytes of a JPEG.
    """
    start, progressive = _find_first_scan(encoded)
    if not (progressive or _may_be_missing(pixels)):
        return False
    end = encoded.find(END_OF_IMAGE, start)
    return end >= 0 and not np.array_equal(decode(encoded[:end] + PADDING + encoded[end:]), pixels)


def _may_be_missing(pixels: np.ndarray) -> bool:
    last = pixels[-1, -1].astype(np.float64)
    if last.shape == (4,):  # CMYK: the value depends on how the file stores ink
        return True
    luma = float(last @ (0.299, 0.587, 0.114)) if last.shape == (3,) else float(last)
    return abs(luma - GREY) <= TOLERANCE


def _find_first_scan(encoded: bytes) -> tuple[int, bool]:
    """Offset of the first scan, behind thumbnails, which contain markers too, and whether the frame is progressive.

    The offset is the end of the file if there is no scan.
    """
    position, progressive = 2, False
    while position + 4 <= len(encoded) and encoded[position] == 0xFF and encoded[position + 1] != START_OF_SCAN:
        progressive |= encoded[position + 1] == PROGRESSIVE_FRAME
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return position, progressive
