"""Limits on the memory and time of decoding an image file, checked on its header before anything is decoded.

A file of a few bytes can claim any size, and a JPEG of 100 kB can hold hundreds of scans, each of which passes over the
whole image.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
from PIL import Image, TiffImagePlugin

DEFAULT_MAX_PIXELS = 50_000_000
BYTES_PER_PIXEL = 40  # memory of decoding, upper bound over all formats and modes, the result included

# Pillow reads many more; some of its readers start other programs (EPS) or are rarely tested.
FILE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

MAX_SCANS = 100  # of a JPEG; encoders write up to about 20
SCANS_OF_LARGEST = 20  # a JPEG's scans times its pixels are at most this times the maximum number of pixels
MAX_SEGMENTS = 10_000  # of a JPEG
WEBP_HEADER = 30  # bytes of a WebP in which its size is
MAX_RLE_PIXELS = 1_000_000  # of a run-length encoded BMP, which Pillow decodes in Python

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))  # TEM, RST0 to RST7, SOI
# Entropy-coded data contain 0xFF only before 0x00 or as a restart marker; 0xFF may also be a fill byte before a marker.
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)


# Pillow's own limit, which warns with a line of its source and cannot be set per call; the checks below replace it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of broken metadata with a line of its source, and reads the image nevertheless; where it cannot, its
# exception is reported.
warnings.filterwarnings("ignore", module=r"PIL\.")


class LimitExceeded(ValueError):
    """Decoding the image would take too much memory or time; the message continues "The image …"."""


def check_bytes(encoded: bytes, max_pixels: int) -> None:
    """Check what must be known before Pillow opens the file.

    Raises:
        LimitExceeded: a WebP of more than ``max_pixels``, for which Pillow allocates memory when it opens the file, or
            a JPEG with too many scans for its size.
    """
    size = webp_size(encoded)
    if size:
        _check_pixels(*size, max_pixels)
    # The marker may also occur in metadata, so that this is an upper bound of the number of scans.
    if encoded.startswith(b"\xff\xd8") and _count_scan_markers(encoded) > SCANS_OF_LARGEST:
        _check_scans(encoded, max_pixels)


def check_header(image: Image.Image, max_pixels: int) -> None:
    """Check the size in the header of an open image, in pixels that its decoder allocates.

    Raises:
        LimitExceeded: the image, or a tile of a TIFF, has more than ``max_pixels``.
    """
    _check_pixels(image.width, image.height, max_pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # The decoder allocates whole tiles, which may be larger than the image.
        tags = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
        width, height = (int(image.tag_v2.get(tag, 1)) for tag in tags)
        if width * height > max_pixels:
            raise LimitExceeded(f"has tiles of {width} x {height} pixels; the maximum is {max_pixels:,} pixels")
    codec = getattr(image, "tile", None) and image.tile[0][0]  # type: ignore[attr-defined]
    if codec == "bmp_rle" and image.width * image.height > MAX_RLE_PIXELS:
        raise LimitExceeded(
            f"is a run-length encoded BMP of {image.width} x {image.height} pixels; the maximum is {MAX_RLE_PIXELS:,}; "
            "save it as PNG"
        )


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise LimitExceeded(f"has {width} x {height} pixels; the maximum is {max_pixels:,}")


def _count_scan_markers(encoded: bytes) -> int:
    # bytes.count takes several times as long.
    content = np.frombuffer(encoded, np.uint8)
    markers = np.flatnonzero(content[:-1] == 0xFF) + 1
    return int(np.count_nonzero(content[markers] == _START_OF_SCAN))


def _check_scans(encoded: bytes, max_pixels: int) -> None:
    """Raise LimitExceeded if a JPEG has too many scans before its end marker."""
    scans = segments = 0
    allowed, position = MAX_SCANS, 2
    while found := _NEXT_MARKER.search(encoded, position):
        marker, position = encoded[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in _START_OF_FRAME:
            height, width = (int.from_bytes(encoded[position + at : position + at + 2], "big") for at in (3, 5))
            allowed = min(allowed, SCANS_OF_LARGEST * max_pixels // max(width * height, 1))
        scans += marker == _START_OF_SCAN
        segments += 1
        if scans > allowed:
            raise LimitExceeded(f"has more than {allowed} scans, the maximum for its size; save it with fewer scans")
        if segments > MAX_SEGMENTS:
            raise LimitExceeded(f"has more than {MAX_SEGMENTS:,} segments; save it without metadata")
        position += int.from_bytes(encoded[position : position + 2], "big")


def webp_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP's canvas; None for other files and broken headers."""
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WEBP" or len(encoded) < WEBP_HEADER:
        return None
    kind = encoded[12:16]
    if kind == b"VP8X":
        return _little_endian(encoded[24:27]) + 1, _little_endian(encoded[27:30]) + 1
    if kind == b"VP8L":
        bits = _little_endian(encoded[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little_endian(encoded[26:28]) & 0x3FFF, _little_endian(encoded[28:30]) & 0x3FFF
    return None


def _little_endian(data: bytes) -> int:
    return int.from_bytes(data, "little")
