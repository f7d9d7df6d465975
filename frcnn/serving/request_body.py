"""Request bodies -> images. Nothing is decoded here: the bytes become pixels later, a few images at a time."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.serving.options import ServeOptions
from frcnn.serving.request_error import RequestError

JSON, JSON_LINES, NPY = "application/json", "application/jsonlines", "application/x-npy"
CONTENT_TYPES = ("image/*", "application/x-image", JSON, JSON_LINES, NPY)

# Pillow reads many more; some of its readers start other programs (EPS) or are rarely tested.
FILE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Maximum number of commas and brackets in a JSON body. Base64 contains none, so that few suffice, and 100 MB of
# "[],[],…" are rejected before they become gigabytes of objects.
MAX_JSON_MARKS = 20_000

Decode = Callable[[], np.ndarray]  # returns an upright RGB image [H, W, 3] uint8, or raises RequestError


class Body(NamedTuple):
    """The images of a request.

    Attributes:
        images: a decoder for each image, or the reason why it has none.
        is_list: the body was a list, even if of one image; so is the response.
        independent: a broken image does not fail the others, as batch transform needs it for the lines of JSON Lines.
    """

    images: list[Decode | RequestError]
    is_list: bool
    independent: bool = False


def read_body(content_type: str, body: bytes, options: ServeOptions) -> Body:
    """Images of a body.

    Raises:
        RequestError: 415 unknown content type, 400 broken, 413 too many images, 422 an array that is not an image.
    """
    if not body:
        raise RequestError(
            400, f"the body is empty; expected an image file or a document of type {', '.join(CONTENT_TYPES[2:])}"
        )
    if content_type == JSON:
        return _read_json(body, options)
    if content_type == JSON_LINES:
        return _read_json_lines(body, options)
    if content_type == NPY:
        return _read_npy(body, options)
    return Body([functools.partial(_decode, body, options.max_pixels)], is_list=False)


def check_content_type(content_type: str, encoding: str) -> None:
    """Raise RequestError (415) unless :func:`read_body` reads this content type and encoding."""
    if not (content_type.startswith("image/") or content_type in CONTENT_TYPES):
        raise RequestError(415, f"unknown content type {content_type!r}; expected one of {', '.join(CONTENT_TYPES)}")
    if encoding.lower() not in ("", "identity"):
        raise RequestError(415, f"unsupported content encoding {encoding!r}; send the body without one")


def _decode(encoded: bytes, max_pixels: int) -> np.ndarray:
    """Pixels of an image file. Its size is read from the header first: a small file can ask for a lot of memory."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FILE_FORMATS) as image:
            width, height = image.size
    except Exception as error:  # Pillow's readers raise many kinds on hostile bytes
        if isinstance(error, Image.DecompressionBombError):
            raise RequestError(
                413, f"the image has more pixels than Pillow considers safe; the maximum is {max_pixels:,}"
            ) from None
        raise RequestError(
            400, f"the image is damaged or of an unknown format; expected {', '.join(FILE_FORMATS)}"
        ) from None
    _check_pixels(width, height, max_pixels)
    try:
        return decode_image(encoded)
    except UnreadableImage as error:
        raise RequestError(400, str(error)) from None


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise RequestError(413, f"the image has {width} x {height} pixels; the maximum is {max_pixels:,}")


def _read_json(body: bytes, options: ServeOptions) -> Body:
    document = _parse_json(body)
    keys = [key for key in ("image", "images", "instances") if isinstance(document, dict) and key in document]
    if len(keys) != 1:
        found = " and ".join(map(repr, keys)) or "none"
        raise RequestError(
            400, f"expected a JSON object with exactly one of 'image', 'images' and 'instances'; found {found}"
        )
    if keys == ["image"]:
        return Body([_from_json(document, options)], is_list=False)
    entries = document[keys[0]]
    if not isinstance(entries, list) or not entries:
        raise RequestError(
            400, f"{keys[0]!r} of the JSON body is {_shorten(entries)}; expected a non-empty list of images in Base64"
        )
    _check_count(len(entries), options)
    images: list[Decode | RequestError] = []
    for number, entry in enumerate(entries):
        try:
            images.append(_from_json(entry, options))
        except RequestError as error:
            raise RequestError(error.status, f"image {number}: {error}") from None
    return Body(images, is_list=True)


def _read_json_lines(body: bytes, options: ServeOptions) -> Body:
    lines = [line for line in body.split(b"\n", options.max_images + 1) if line.strip()]
    if not lines:
        raise RequestError(400, "the body has only empty lines; expected one image per line")
    _check_count(len(lines), options)
    images: list[Decode | RequestError] = []
    for line in lines:
        try:
            images.append(_from_json(_parse_json(line), options))
        except RequestError as error:
            images.append(error)
    return Body(images, is_list=True, independent=True)


def _read_npy(body: bytes, options: ServeOptions) -> Body:
    """Images of an npy file. NumPy's own reader allocates what the header asks for before it looks for the data."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception:  # the header is a Python literal: SyntaxError, ValueError, RecursionError, MemoryError …
        raise RequestError(400, "the body is not an array in NumPy's npy format, version 1 or 2") from None
    if dtype != np.uint8:
        raise RequestError(422, f"the array has dtype {dtype}; expected uint8, RGB from 0 to 255")
    if len(shape) not in (3, 4) or shape[-1] != 3 or min(shape) < 1:
        raise RequestError(
            422, f"the array has shape {list(shape)}; expected [height, width, 3] or [images, height, width, 3]"
        )
    data = np.frombuffer(body, np.uint8, offset=stream.tell())
    expected = int(np.prod([int(side) for side in shape], dtype=object))
    if data.size != expected:
        raise RequestError(
            400, f"the array of shape {list(shape)} is truncated or too long: {data.size} values instead of {expected}"
        )
    array = data.reshape(shape, order="F" if fortran_order else "C")
    _check_pixels(shape[-2], shape[-3], options.max_pixels)
    if len(shape) == 3:
        return Body([functools.partial(np.ascontiguousarray, array)], is_list=False)
    _check_count(len(array), options)
    return Body([functools.partial(np.ascontiguousarray, image) for image in array], is_list=True)


def _parse_json(text: bytes) -> Any:
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS:
        raise RequestError(
            413, f"the JSON has more than {MAX_JSON_MARKS:,} values; expected images in Base64 and little else"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the JSON cannot be parsed: {_shorten(str(error))}") from None


def _from_json(entry: Any, options: ServeOptions) -> Decode:
    """Decoder of ``"<Base64>"``, ``{"b64": "<Base64>"}`` or ``{"image": …}`` with one of these."""
    if isinstance(entry, dict):
        entry = entry.get("image", entry.get("b64"))
    if isinstance(entry, dict):
        entry = entry.get("b64")
    if not isinstance(entry, str):
        raise RequestError(
            400, f'found {_shorten(entry)}; expected an image in Base64 as "…", {{"b64": "…"}} or {{"image": "…"}}'
        )
    if entry.startswith("data:"):
        entry = entry.partition(",")[2]
    try:
        encoded = base64.b64decode(entry, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"the image is not valid Base64: {error}") from None
    return functools.partial(_decode, encoded, options.max_pixels)


def _check_count(count: int, options: ServeOptions) -> None:
    if count > options.max_images:
        raise RequestError(413, f"the request has more than {options.max_images} images; send fewer at a time")


def _shorten(value: Any) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
