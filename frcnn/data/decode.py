"""Image files -> upright RGB arrays; the one decoder of training, evaluation, prediction and serving."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

# What turns a picture upright, by its EXIF orientation (EXIF 2.32, tag 0x0112). Pillow's exif_transpose also writes the other tags anew,
# and fails at those that a camera wrote with another type.
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SWAPS_SIDES = range(5, 9)


class UnreadableImage(ValueError):
    """The bytes are not a whole picture of a known format; the message says why."""


def decode_image(source: Path | bytes) -> np.ndarray:
    """Pixels of a JPEG, PNG, BMP, GIF (first frame), WebP or other file that Pillow reads.

    EXIF orientation is applied; greyscale, palette, CMYK and 16-bit pictures become RGB; transparency is dropped, the
    colours below it stay, as in torchvision and Detectron2.

    Args:
        source: path, or the encoded bytes.

    Returns:
        ``[H, W, 3]`` uint8 RGB, writable.

    Raises:
        UnreadableImage: missing, empty, truncated or broken file, or one of more pixels than Pillow deems safe.
    """
    try:
        encoded = source if isinstance(source, bytes) else source.read_bytes()
        with _open(encoded) as picture:
            if _is_plain_jpeg(picture, encoded) and (pixels := _decode_plain_jpeg(encoded)) is not None:
                return pixels
            picture.load()
            turn = _UPRIGHT.get(_orientation(picture))
            return np.array(_rgb(picture if turn is None else picture.transpose(turn)))
    except Exception as error:  # broken bytes raise whatever Pillow's decoders did not expect
        raise UnreadableImage(_reason(source, error)) from error


def upright_size(file: Path) -> tuple[int, int]:
    """Width and height after EXIF orientation, from the header alone. Raises UnreadableImage."""
    try:
        with _open(file) as picture:
            width, height = picture.size
            turned = _orientation(picture) in _SWAPS_SIDES
    except Exception as error:
        raise UnreadableImage(_reason(file, error)) from error
    return (height, width) if turned else (width, height)


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _is_plain_jpeg(picture: Image.Image, encoded: bytes) -> bool:
    """Upright RGB or greyscale with an end marker: TensorFlow logs a line for every file that is cut short."""
    if picture.format != "JPEG" or picture.mode not in ("RGB", "L") or not encoded.endswith(b"\xff\xd9"):
        return False
    return _orientation(picture) not in _UPRIGHT


def _orientation(picture: Image.Image) -> int:
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) else 1


def _decode_plain_jpeg(encoded: bytes) -> np.ndarray | None:
    """TensorFlow's decoder: the same library and pixels as Pillow's, but it runs without the interpreter's lock, so that
    threads decode side by side. None where it refuses the bytes; Pillow then says why, or reads them after all."""
    import tensorflow as tf  # only here, so that converting annotations and reading sizes do not load TensorFlow

    try:
        with tf.device("CPU:0"):
            return np.array(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"))
    except tf.errors.InvalidArgumentError:
        return None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        # Pillow's own conversion cuts 16-bit values off at 255: white fog instead of a picture.
        values = np.asarray(picture, np.float64)
        full = 65535.0 if picture.mode.startswith("I") else max(float(values.max(initial=0.0)), 1.0)
        grey = np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # applies the palette's transparency, which Pillow would warn about
    return picture.convert("RGB")


def _reason(source: Path | bytes, error: BaseException) -> str:
    name = "the image" if isinstance(source, bytes) else str(source)
    if isinstance(error, FileNotFoundError):
        return f"{name} does not exist"
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not a picture of a known format"
    return f"{name} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
