from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.data.decode import UnreadableImage, decode_image, upright_size


def scene(height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth colors with a bright upper left corner, so that orientations differ and JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([120 + 2 * x, 60 + 4 * y, 200 - 2 * x - 2 * y], axis=-1)
    pixels[: height // 3, : width // 3] = (250, 240, 230)
    return pixels.astype(np.uint8)


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"format": "PNG"}, 0),
        ({"format": "BMP"}, 0),
        ({"format": "WEBP", "lossless": True}, 0),
        ({"format": "TIFF"}, 0),
        ({"format": "GIF"}, 60),  # 256 colors, dithered
        ({"format": "JPEG", "quality": 95, "subsampling": 0}, 30),
        ({"format": "JPEG", "quality": 95, "subsampling": 0, "progressive": True}, 30),
    ],
)
def test_formats(options: dict[str, object], tolerance: int) -> None:
    decoded = decode_image(encode(Image.fromarray(scene()), **options))
    assert decoded.shape == (24, 40, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert np.abs(decoded.astype(int) - scene()).max() <= tolerance


# Operations that turn the stored pixels upright, from the table of the EXIF standard.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # a quarter turn clockwise
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {"quality": 100, "subsampling": 0}),
        ("webp", {"lossless": True}),
        ("tif", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("avif", {"quality": 100}),
    ],
)
def test_exif_orientation(orientation: int, suffix: str, options: dict[str, object], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned.{suffix}"
    Image.fromarray(scene()).save(file, exif=exif, **options)
    decoded = decode_image(file)
    expected = UPRIGHT[orientation](scene())
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 3
    assert upright_size(file) == (expected.shape[1], expected.shape[0])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_upright_size_decodes_no_pixels(tmp_path: Path) -> None:
    """Whatever the size in the header is, and wherever the orientation is."""
    file = tmp_path / "image"
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    )
    assert upright_size(file) == (2**31 - 1, 2**31 - 1)
    file.write_bytes(b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2)  # Pillow would allocate 1 GiB
    assert upright_size(file) == (16384, 16384)

    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(Image.fromarray(scene()), format="PNG")
    raw = f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}"
    profile = png_chunk(b"tEXt", b"Raw profile type exif\0" + raw.encode())
    for before, behind in ((b"", b""), (b"", png_chunk(b"eXIf", exif.tobytes()[6:])), (profile, b"")):
        file.write_bytes(plain[:33] + before + plain[33:-12] + behind + plain[-12:])
        assert upright_size(file) == decode_image(file).shape[1::-1] == ((24, 40) if before + behind else (40, 24))


def test_broken_metadata_print_no_lines_of_pillows_source(tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    Image.fromarray(scene()).save(file)
    content = bytearray(file.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * (entries - 1) + 4, 2**28)  # number of values of the last tag
    file.write_bytes(content)
    script = f"from pathlib import Path; from frcnn.data.decode import upright_size; upright_size(Path({str(file)!r}))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    with pytest.warns(UserWarning, match="larger than file"), Image.open(file):  # pytest has filters of its own
        pass


@pytest.mark.parametrize(
    ("tag", "kind"), [(0x0100, 1), (0x0100, 5), (0x011A, 1), (0x0128, 5), (0x8769, 2), (0x8825, 7)]
)
def test_tags_of_an_unexpected_type_are_ignored(tag: int, kind: int) -> None:
    """ImageWidth as a byte, ResolutionUnit as a fraction and the like, beside an orientation of 180 degrees."""
    value = (
        (1, struct.pack("<L", 38)) if kind == 5 else (4, b"abcd")
    )  # a fraction follows the table, of 8 + 2 + 2 * 12 + 4 bytes
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", 3, 0)), (tag, kind, *value)])
    table = struct.pack("<H", 2) + b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    table += struct.pack("<LL", 72, 1)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + table
    decoded = decode_image(encode(Image.fromarray(scene()), format="JPEG", quality=95, exif=exif))
    assert np.abs(decoded.astype(int) - scene()[::-1, ::-1]).mean() < 6


def test_greyscale_palette_and_alpha_become_rgb() -> None:
    grey = np.asarray(Image.fromarray(scene()).convert("L"))
    for options in ({"format": "PNG"}, {"format": "BMP"}):
        np.testing.assert_array_equal(
            decode_image(encode(Image.fromarray(grey), **options)), np.stack([grey] * 3, axis=-1)
        )
    assert np.abs(decode_image(encode(Image.fromarray(grey), format="JPEG")).astype(int) - grey[..., None]).max() < 40
    palette = Image.fromarray(scene()).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(palette, format="PNG")), np.asarray(palette.convert("RGB")))
    see_through = np.dstack([scene(), np.full((24, 40), 7, np.uint8)])
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(see_through, "RGBA"), format="PNG")), scene())
    one_bit = Image.fromarray(grey > 128)
    np.testing.assert_array_equal(decode_image(encode(one_bit, format="PNG"))[..., 0], np.where(grey > 128, 255, 0))


def test_cmyk_jpeg_keeps_its_colors() -> None:
    decoded = decode_image(encode(Image.fromarray(scene()).convert("CMYK"), format="JPEG", quality=95))
    assert np.abs(decoded.astype(int) - scene()).mean() < 6


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"progressive": True}),
        ("L", {"progressive": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
@pytest.mark.parametrize("size", [(240, 400), (241, 401), (17, 33)])
def test_truncated_jpegs_with_an_end_marker_are_unreadable(
    mode: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    whole = encode(Image.fromarray(noise).convert(mode), format="JPEG", quality=80, **options)
    assert decode_image(whole).shape == (*size, 3)
    assert decode_image(whole + b"trailer").shape == (*size, 3)
    scan = whole.index(b"\xff\xda")
    for share in (0.3, 0.6, 0.9):
        cut = whole[: scan + int(share * (len(whole) - scan))].rstrip(b"\xff")
        for trailer in (b"", b"trailer"):
            with pytest.raises(UnreadableImage, match=r"truncated: its lower part is missing|decoded: .*truncated"):
                decode_image(cut + b"\xff\xd9" + trailer)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_complete_jpegs_with_a_grey_corner_are_readable(mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    pixels[50:] = 128
    for options in ({}, {"progressive": True}):
        decoded = decode_image(encode(Image.fromarray(pixels).convert(mode), format="JPEG", quality=80, **options))
        assert np.abs(decoded[70:].astype(int) - 128).max() <= 2
    assert "Corrupt JPEG" not in capfd.readouterr().err


def test_heic_needs_an_extra_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = tmp_path / "photo.HEIC"
    pillow_heif.from_pillow(Image.fromarray(scene())).save(file, quality=95)
    decoded = decode_image(file)
    assert np.abs(decoded.astype(int) - scene()).mean() < 6
    assert upright_size(file) == (40, 24)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # import then fails as if the package were not installed
    for name in ("HEIF", "HEIC"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
        monkeypatch.setattr(Image, "ID", [known for known in Image.ID if known != name])
    for read in (decode_image, upright_size):
        with pytest.raises(UnreadableImage, match=r"HEIC needs the package pillow-heif: pip install 'frcnn\[heif\]'"):
            read(file)


def test_plain_jpegs_have_the_pixels_of_pillow(real_data: Path) -> None:
    for file in sorted((real_data / "coco128" / "val2017").iterdir())[:20]:
        with Image.open(file) as image:
            np.testing.assert_array_equal(decode_image(file), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "cannot be decoded: .*truncated"),
        (lambda data: b"", "not an image of a known format"),
        (lambda data: b"GIF89a", "cannot be decoded|not an image"),
        (lambda data: b"<html>" * 100, "not an image of a known format"),
    ],
)
def test_damaged_bytes_are_unreadable(damage, words: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(damage(encode(Image.fromarray(scene(240, 400)), format="JPEG")))
    with pytest.raises(UnreadableImage, match=words) as caught:
        decode_image(file)
    assert str(file) in str(caught.value)
    with pytest.raises(UnreadableImage, match=r"the image "):
        decode_image(file.read_bytes())


def test_missing_file_is_unreadable(tmp_path: Path) -> None:
    for read in (decode_image, upright_size):
        with pytest.raises(UnreadableImage, match=r"gone.jpg does not exist"):
            read(tmp_path / "gone.jpg")


@pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)  # of TIFF tags, and of sizes
def test_random_damage_never_raises_another_exception() -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x0100: 40, 0x011A: 72.0, 0x010F: "maker", 0x8769: {0x9003: "2020:01:01 00:00:00"}})
    turned = [{"format": name, "exif": exif} for name in ("JPEG", "WEBP", "PNG")]
    for options in (
        *turned,
        {"format": "PNG"},
        {"format": "JPEG"},
        {"format": "GIF"},
        {"format": "WEBP"},
        {"format": "BMP"},
        {"format": "TIFF"},
    ):
        whole = encode(Image.fromarray(scene()), **options)
        for _ in range(60):
            data = bytearray(whole)
            for position in rng.integers(0, len(data), 4):
                data[position] = rng.integers(256)
            with contextlib.suppress(UnreadableImage):
                assert decode_image(bytes(data)).ndim == 3
