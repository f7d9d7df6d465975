"""Images of more than 8 bits per sample."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from frcnn.data import bit_depth
from frcnn.data.decode import decode_image


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, order: str = "<", maximum: int | None = None) -> bytes:
    """An uncompressed 16-bit TIFF, greyscale or RGB, written by hand from the specification (TIFF 6.0)."""
    height, width, *color = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    channels = color[0] if color else 1
    entries = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 2 if color else 1)]
    entries += [(273, 4, 0), (277, 3, channels), (278, 4, height), (279, 4, len(data))]
    entries += [(281, 3, maximum)] if maximum else []
    depths, start = 8 + 2 + 12 * len(entries) + 4, 8 + 2 + 12 * len(entries) + 4 + 6
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        if (tag, bool(color)) == (258, True):
            table += struct.pack(f"{order}HHLL", tag, kind, 3, depths)
        else:
            packed = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}L", value or start)
            table += struct.pack(f"{order}HHL", tag, kind, 1) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 8)
    return head + table + bytes(4) + struct.pack(f"{order}HHH", 16, 16, 16) + data


def png(samples: np.ndarray, significant_bits: int | None = None) -> bytes:
    """A 16-bit PNG, greyscale or RGB, written by hand from the specification (ISO/IEC 15948)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    height, width, *color = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">LLBBBBB", width, height, 16, 2 if color else 0, 0, 0, 0)
    declared = chunk(b"sBIT", bytes([significant_bits] * (3 if color else 1))) if significant_bits else b""
    chunks = chunk(b"IHDR", header) + declared + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def ramp(largest: int, *shape: int) -> np.ndarray:
    return np.linspace(0, largest, int(np.prod(shape))).reshape(shape).astype(np.uint16)


def lzw(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return encode(image, format="TIFF", compression="tiff_lzw")


@pytest.mark.parametrize("largest", [65535, 16383, 4095, 1023, 255])
@pytest.mark.parametrize(
    "write",
    [
        png,
        tiff,
        lambda samples: tiff(samples, ">"),
        lambda samples: lzw(tiff(samples)) if samples.ndim == 2 else tiff(samples),
    ],
)
@pytest.mark.parametrize("color", [(), (3,)])
def test_samples_of_16_bits_are_scaled_by_the_range_in_use(write, largest: int, color: tuple[int, ...]) -> None:
    samples = ramp(largest, 24, 40, *color)
    decoded = decode_image(write(samples))
    expected = samples / largest * 255
    np.testing.assert_allclose(decoded, expected if color else np.dstack([expected] * 3), atol=0.51)


@pytest.mark.parametrize("color", [(), (3,)])
def test_a_declared_range_applies_to_dark_images(color: tuple[int, ...]) -> None:
    samples = ramp(900, 24, 40, *color)
    expected = samples / 4095 * 255
    for content in (png(samples, significant_bits=12), tiff(samples, maximum=4095)):
        decoded = decode_image(content)
        np.testing.assert_allclose(decoded, expected if color else np.dstack([expected] * 3), atol=0.51)
    # A PNG that was scaled up to 16 bits, as the specification asks, keeps its range.
    np.testing.assert_allclose(decode_image(png(ramp(65535, 4, 8), 12))[..., 0], ramp(65535, 4, 8) / 257, atol=0.51)


def test_scaling_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    bit_depth._report_once.cache_clear()
    for _ in range(3):
        decode_image(png(ramp(4095, 24, 40)))
    assert caplog.text.count("samples of 0..4095 (used by the file) are scaled to 0..255") == 1
    decode_image(png(ramp(65535, 24, 40)))
    assert len(caplog.records) == 1


def test_floating_point_samples() -> None:
    for largest, expected in ((1.0, 255), (0.5, 127.5), (200.0, 200), (4000.0, 4000 / 4095 * 255)):
        samples = np.linspace(0, largest, 24 * 40, dtype=np.float32).reshape(24, 40)
        decoded = decode_image(encode(Image.fromarray(samples), format="TIFF"))
        np.testing.assert_allclose(decoded[..., 2], samples / largest * expected, atol=0.51)
