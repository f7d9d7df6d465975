"""Limits on decoding, checked on headers: pixels, tiles, scans of JPEGs, formats; and the memory that is used."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frcnn.config import Config, Data
from frcnn.data.check import check_dataset
from frcnn.data.coco import load_index
from frcnn.data.decode import ImageTooLarge, UnreadableImage, decode_image
from frcnn.data.image_limits import BYTES_PER_PIXEL, DEFAULT_MAX_PIXELS, MAX_SCANS
from frcnn.data.pipeline import inference_batches
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.serving.options import ServeOptions

PIXELS = np.array(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).resize((96, 64)))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def with_scans(jpeg: bytes, scans: int) -> bytes:
    """A JPEG whose last scan is repeated until it has this many."""
    start, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[start:end] * (scans - jpeg.count(b"\xff\xda")) + jpeg[end:]


def resized_header(encoded: bytes, offset: int, layout: str, *values: int) -> bytes:
    """The file with the numbers at an offset replaced."""
    return encoded[:offset] + struct.pack(layout, *values) + encoded[offset + struct.calcsize(layout) :]


def png_header(width: int, height: int, bits: int = 8, color: int = 2) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def claims_to_be_huge() -> dict[str, bytes]:
    image = Image.fromarray(PIXELS)
    jpeg, webp = encode(image, "JPEG"), encode(image, "WEBP")
    lossless, animated = (
        encode(image, "WEBP", lossless=True),
        encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
    )
    gif, bmp = encode(image.convert("P"), "GIF"), encode(image, "BMP")
    frame = jpeg.index(b"\xff\xc0")
    return {
        "PNG of 1 x 1e8": png_header(1, 100_000_000) + b"\0\0\0\0IEND\xaeB`\x82",
        "PNG, 16 bits": png_header(13_000, 13_000, bits=16, color=0) + b"\0\0\0\0IEND\xaeB`\x82",
        "JPEG": resized_header(jpeg, frame + 5, ">HH", 65_000, 65_000),
        "GIF": resized_header(gif, 6, "<HH", 65_000, 65_000),
        "GIF with a large frame": resized_header(gif, gif.index(b",\0\0\0\0") + 5, "<HH", 65_000, 65_000),
        "BMP": resized_header(bmp, 18, "<ii", 1_000_000, 1_000_000),
        "WebP": resized_header(webp, 26, "<HH", 16_383, 16_383),
        "lossless WebP": resized_header(lossless, 21, "<I", 16_382 | 16_382 << 14),
        "animated WebP": animated[:24] + b"\xfe\x3f\0\xfe\x3f\0" + animated[30:],
        "TIFF": tiff_of((256, 100_000), (257, 100_000), (258, 8), (262, 1), (273, 8), (278, 100_000), (279, 10)),
        "TIFF with large tiles": tiff_of(
            (256, 10), (257, 10), (258, 8), (259, 5), (262, 1), (322, 65_536), (323, 65_536), (324, 8), (325, 10)
        ),
    }


def tiff_of(*values: tuple[int, int]) -> bytes:
    """A TIFF without pixels, of tags with one number each."""
    tags = [(tag, 4, 1, value) for tag, value in values]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("name", "encoded"), claims_to_be_huge().items())
def test_a_header_with_too_many_pixels_is_rejected(name: str, encoded: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"^the image has (tiles of )?\d+ x \d+ pixels; the maximum is 50,000,000"):
        decode_image(encoded)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_limit_is_exact(format: str) -> None:
    encoded = encode(Image.fromarray(PIXELS), format)
    assert decode_image(encoded, max_pixels=96 * 64).shape == (64, 96, 3)
    with pytest.raises(ImageTooLarge, match=r"has 96 x 64 pixels; the maximum is 6,143$"):
        decode_image(encoded, max_pixels=96 * 64 - 1)


@pytest.mark.parametrize("progressive", [True, False])
@pytest.mark.parametrize("use_tensorflow", [True, False])
def test_a_jpeg_with_too_many_scans_is_rejected(progressive: bool, use_tensorflow: bool) -> None:
    jpeg = encode(Image.fromarray(PIXELS), "JPEG", progressive=progressive)
    decode: Callable[..., np.ndarray] = lambda data, **limits: decode_image(  # noqa: E731
        data, use_tensorflow=use_tensorflow, **limits
    )
    assert decode(jpeg).shape == PIXELS.shape
    if progressive:  # the number of scans is allowed; repeated refinement scans lack data
        with pytest.raises(UnreadableImage, match="the file is truncated"):
            decode(with_scans(jpeg, MAX_SCANS))
    with pytest.raises(ImageTooLarge, match=f"the image has more than {MAX_SCANS} scans"):
        decode(with_scans(jpeg, MAX_SCANS + 1))
    with pytest.raises(ImageTooLarge, match="the image has more than 40 scans"):  # 20 for an image of the maximum size
        decode(with_scans(jpeg, 41), max_pixels=2 * 96 * 64)


def test_scans_in_metadata_and_after_the_image_do_not_count() -> None:
    jpeg = encode(Image.fromarray(PIXELS), "JPEG", quality=95)
    thumbnail = b"\xff\xe5\xff\xff" + b"\xff\xda\x00\x01" * 16383 + b"\0"
    assert decode_image(jpeg[:2] + thumbnail + jpeg[2:] + b"\xff\xda" * 1000 + b"\xff\xd9").shape == PIXELS.shape
    many = b"\xff\xfe\x00\x02" * 10_001 + b"\xff\xda" * 21
    with pytest.raises(ImageTooLarge, match="more than 10,000 segments"):
        decode_image(jpeg[:2] + many + jpeg[2:])


def test_run_length_encoded_bmp_is_limited() -> None:
    bmp = encode(Image.new("P", (8, 8)), "BMP")
    compressed = resized_header(bmp[:-64], 30, "<I", 1) + b"\x08\x01\0\0" * 8 + b"\0\x01"
    assert decode_image(compressed).shape == (8, 8, 3)
    with pytest.raises(ImageTooLarge, match="is a run-length encoded BMP of 1001 x 1000 pixels"):
        decode_image(resized_header(compressed, 18, "<ii", 1001, 1000))


@pytest.mark.parametrize(("format", "head"), [("EPS", b"%!PS-Adobe-3.0 EPSF"), ("PPM", b"P6\n"), ("PCX", b"\x0a")])
def test_formats_outside_the_list_are_not_read(format: str, head: bytes) -> None:
    encoded = encode(Image.fromarray(PIXELS), format)
    assert encoded.startswith(head)
    with pytest.raises(UnreadableImage, match="not an image of a known format; expected JPEG, PNG"):
        decode_image(encoded)


def test_training_and_serving_have_the_same_default() -> None:
    assert Data().max_pixels == ServeOptions.model_fields["max_pixels"].default == DEFAULT_MAX_PIXELS


def test_the_option_reaches_training_and_check(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(PIXELS), "PNG"))
    images = [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    options = Config(data={"max_pixels": 96 * 64 - 1})  # type: ignore[arg-type]
    assert check_dataset(tmp_path, tmp_path / "a.json", Config()).image_problems == ()
    (problem,) = check_dataset(tmp_path, tmp_path / "a.json", options).image_problems
    assert "has 96 x 64 pixels; the maximum is 6,143" in problem.reason
    index = load_index(tmp_path, tmp_path / "a.json")
    unreadable = UnreadableImages(index, max_share=1.0)
    next(iter(inference_batches(index, options, 1, unreadable_images=unreadable)))
    assert list(unreadable.reasons) == [tmp_path / "a.png"]


MEASURE = """
import io, json, re, sys, warnings
from pathlib import Path
import numpy as np
from PIL import Image
from frcnn.data.decode import decode_image

SIDE = 1600
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def encode(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()

warnings.simplefilter("ignore")
rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)).resize((SIDE, SIDE))
deep = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
turned = Image.Exif()
turned[0x0112] = 6
cases = {f"PNG {mode}": (rgb.convert(mode), "PNG", {"exif": turned}) for mode in ("RGB", "RGBA", "LA", "P", "1", "L")}
cases |= {f"WEBP {mode}": (rgb.convert(mode), "WEBP", {"lossless": True, "method": 0, "exif": turned})
          for mode in ("RGB", "RGBA")}
cases |= {f"TIFF {mode} {kind}": (rgb.convert(mode), "TIFF", {"compression": kind})
          for mode in ("RGB", "RGBA", "CMYK", "L", "1", "F", "I") for kind in ("raw", "tiff_lzw")}
cases |= {
    "JPEG": (rgb, "JPEG", {"exif": turned}),
    "JPEG progressive": (rgb, "JPEG", {"exif": turned, "progressive": True, "subsampling": 0}),
    "JPEG CMYK": (rgb.convert("CMYK"), "JPEG", {"exif": turned, "progressive": True}),
    "PNG 16 bits": (Image.fromarray(deep), "PNG", {"exif": turned}),
    "TIFF 16 bits": (Image.fromarray(deep), "TIFF", {"compression": "tiff_lzw"}),
    "WEBP animated": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)], "method": 0}),
    "GIF": (rgb.convert("P"), "GIF", {}),
    "BMP": (rgb, "BMP", {}),
    "AVIF": (rgb, "AVIF", {"speed": 10}),
}
result = {}
for name, (image, format, options) in cases.items():
    encoded = encode(image, format, **options)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    decode_image(encoded, use_tensorflow=False)
    result[name] = (memory("VmHWM") - before) / SIDE**2
assert "tensorflow" not in sys.modules
print(json.dumps(result))
"""


@pytest.mark.slow
def test_memory_per_pixel_is_bounded_for_every_format_and_mode() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert len(measured) > 25
    assert max(measured.values()) > 8, "nothing was measured"
    assert {name: value for name, value in measured.items() if value > BYTES_PER_PIXEL} == {}
