"""Image files -> upright RGB arrays; the one decoder of training, evaluation, prediction and serving."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.Image import Transpose

from frcnn.data.bit_depth import declared_maximum, read_deep_samples, scale_to_8_bits
from frcnn.data.image_limits import (
    DEFAULT_MAX_PIXELS,
    FILE_FORMATS,
    WEBP_HEADER,
    LimitExceeded,
    check_bytes,
    check_header,
    webp_size,
)
from frcnn.data.jpeg import is_truncated

# Transposition for each EXIF orientation (EXIF 2.32, tag 0x0112). Pillow's exif_transpose also rewrites the other tags
# and fails on tags that a camera wrote with an unexpected type.
_TRANSPOSE = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SWAPS_SIDES = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
# Brands of the ISO base media file format (ISO/IEC 23008-12) that only the package pillow-heif decodes.
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


class UnreadableImage(ValueError):
    """The bytes are not a complete image of a known format; the message says why."""


class ImageTooLarge(UnreadableImage):
    """Decoding the image would take more memory or time than allowed."""


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: ``[H, W, 3]`` uint8 RGB, upright, possibly read-only.
        size: height and width of the whole image; ``pixels`` is smaller if the image was decoded at a reduced size.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def decode_image(
    source: Path | bytes, max_pixels: int = DEFAULT_MAX_PIXELS, *, use_tensorflow: bool = True
) -> np.ndarray:
    """Pixels of a JPEG, PNG, BMP, GIF (first frame), WebP, TIFF, AVIF or HEIC file.

    EXIF orientation is applied. Greyscale, palette and CMYK images become RGB, and more than 8 bits per sample are
    scaled to 8. Transparency is dropped and the colors below it are kept, as in torchvision and Detectron2.

    Args:
        source: path, or the encoded bytes.
        max_pixels: maximum size, checked on the header as in :mod:`frcnn.data.image_limits`.
        use_tensorflow: decode most JPEGs with TensorFlow, which runs in parallel in several threads; the pixels are the
            same. False for a process that does not import TensorFlow.

    Returns:
        ``[H, W, 3]`` uint8 RGB, writable.

    Raises:
        ImageTooLarge: more pixels than ``max_pixels``, or too many scans of a JPEG.
        UnreadableImage: missing, empty, truncated or damaged file.
    """
    pixels = decode_without_copy(source, max_pixels, use_tensorflow=use_tensorflow).pixels
    return pixels if pixels.flags.writeable else pixels.copy()


def decode_without_copy(
    source: Path | bytes, max_pixels: int, *, reduction: int = 1, use_tensorflow: bool = True
) -> Decoded:
    """:func:`decode_image` for callers that only read the pixels.

    Args:
        reduction: 1, 2, 4 or 8: decode JPEGs at this fraction of their size, rounded up, by a smaller inverse DCT.
            Files in other formats, and JPEGs that only Pillow decodes (turned, CMYK), have their whole size.
    """
    try:
        encoded = source if isinstance(source, bytes) else source.read_bytes()
        check_bytes(encoded, max_pixels)
        with _open(encoded) as image:
            check_header(image, max_pixels)
            transpose = _orienting_transpose(image)
            if use_tensorflow and transpose is None and _is_plain_jpeg(image, encoded):
                pixels = _decode_plain_jpeg(encoded, reduction)
                if pixels is not None:
                    return Decoded(pixels, (image.height, image.width))
            pixels = _decode_opened(image, encoded, transpose)
            return Decoded(pixels, pixels.shape[:2])
    except LimitExceeded as error:
        raise ImageTooLarge(f"{_name(source)} {error}") from None
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
        raise UnreadableImage(_reason(source, error)) from error


def _decode_opened(image: ImageFile.ImageFile, encoded: bytes, transpose: Transpose | None) -> np.ndarray:
    samples = read_deep_samples(image, encoded)
    if image.format in ("JPEG", "MPO") and is_truncated(encoded, np.asarray(image), _decode_with_pillow):
        raise ValueError("the file is truncated: its lower part is missing")
    if samples is None:
        rgb = _to_rgb(image)
    else:
        rgb = Image.fromarray(scale_to_8_bits(samples, declared_maximum(image, encoded))).convert("RGB")
    return np.array(rgb if transpose is None else rgb.transpose(transpose))


def upright_pixels(image: Image.Image) -> np.ndarray:
    """Pixels ``[H, W, 3]`` uint8 RGB of a Pillow image, turned upright if it was opened from a file with EXIF data.

    Raises:
        UnreadableImage: more than 8 bits per sample, whose range the image does not say, or a damaged file.
    """
    if image.mode.startswith(("I", "F")):
        raise UnreadableImage(f"the image has mode {image.mode!r}; convert it to 8 bits, or give the file's path")
    try:
        transpose = _orienting_transpose(image)
        rgb = _to_rgb(image)
        return np.array(rgb if transpose is None else rgb.transpose(transpose))
    except Exception as error:  # a lazily opened file is decoded here
        raise UnreadableImage(_reason(b"", error)) from error


def upright_size(file: Path) -> tuple[int, int]:
    """Width and height after EXIF orientation, from the headers alone. Raises UnreadableImage."""
    try:
        canvas = webp_size(_read_head(file))
        if canvas and canvas[0] * canvas[1] > DEFAULT_MAX_PIXELS:
            return canvas  # Pillow would allocate it to look for an orientation
        with _open(file) as image:
            width, height = image.size
            if image.format == "PNG":  # Pillow would decode it to look for an orientation behind the pixels
                image.info.setdefault("exif", _png_exif(file, image.info.get("Raw profile type exif", "")))
            transpose = _orienting_transpose(image)
    except Exception as error:
        raise UnreadableImage(_reason(file, error)) from error
    return (height, width) if transpose in _SWAPS_SIDES else (width, height)


def _open(source: Path | bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FILE_FORMATS)
    except UnidentifiedImageError:
        head = source[:WEBP_HEADER] if isinstance(source, bytes) else _read_head(source)
        if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
            raise
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError("HEIC needs the package pillow-heif: pip install 'frcnn[heif]'") from error
        pillow_heif.register_heif_opener()
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=["HEIF"])


def _read_head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(WEBP_HEADER)


def _png_exif(file: Path, raw_profile: str) -> bytes:
    """Content of the eXIf chunk of a PNG, else of ImageMagick's raw profile; empty if there is neither."""
    with file.open("rb") as stream:
        stream.seek(8)
        while len(header := stream.read(8)) == 8 and header[4:] != b"IEND":
            size = int.from_bytes(header[:4], "big")
            if header[4:] == b"eXIf":
                return stream.read(size)
            stream.seek(size + 4, io.SEEK_CUR)
    return bytes.fromhex("".join(raw_profile.split("\n")[3:]))


def _orienting_transpose(image: Image.Image) -> Transpose | None:
    """What turns the pixels and the size of an opened image upright; None where they already are.

    Pillow orients TIFF while loading and reports its upright size before, and libheif orients HEIC.
    """
    if image.format in ("TIFF", "HEIF"):
        return None
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None


def _is_plain_jpeg(image: Image.Image, encoded: bytes) -> bool:
    """RGB or greyscale with an end marker: TensorFlow logs a line for every file without one."""
    return image.format == "JPEG" and image.mode in ("RGB", "L") and encoded.endswith(b"\xff\xd9")


def _decode_plain_jpeg(encoded: bytes, reduction: int) -> np.ndarray | None:
    """Decode with TensorFlow: the same library and pixels as Pillow, but without the GIL, so that threads can decode.

    None where TensorFlow refuses the bytes or the file looks truncated; Pillow then reports why, or reads it.
    """
    import tensorflow as tf

    with contextlib.suppress(tf.errors.InvalidArgumentError):
        with tf.device("CPU:0"):
            decoded = tf.io.decode_jpeg(encoded, channels=3, ratio=reduction, dct_method="INTEGER_ACCURATE")
        pixels = np.asarray(memoryview(decoded))  # without a copy
        # With Pillow, because TensorFlow prints a line about the bytes that the check inserts.
        if not is_truncated(encoded, pixels, lambda changed: _decode_with_pillow(changed, "RGB", reduction)):
            return pixels
    return None


def _decode_with_pillow(encoded: bytes, mode: str | None = None, reduction: int = 1) -> np.ndarray:
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        if reduction > 1:
            image.draft(None, (max(image.width // reduction, 1), max(image.height // reduction, 1)))
        return np.asarray(image.convert(mode) if mode else image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # applies the palette's transparency, which Pillow would warn about
    return image if image.mode == "RGB" else image.convert("RGB")


def _name(source: Path | bytes) -> str:
    return "the image" if isinstance(source, bytes) else str(source)


def _reason(source: Path | bytes, error: BaseException) -> str:
    name = _name(source)
    if isinstance(error, FileNotFoundError):
        return f"{name} does not exist"
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not an image of a known format; expected {', '.join(FILE_FORMATS)}"
    return f"{name} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
