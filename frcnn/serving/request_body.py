"""Request bodies -> pictures. Nothing is decoded here: bytes become pixels later, a few pictures at a time."""

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

# Pillow knows many more; some of its readers start other programs (EPS) or are rarely looked at.
FILE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Commas and brackets that a JSON body may have. Base64 has none, so that a few suffice, and a body of a hundred megabytes
# of "[],[],…" is refused before it has become gigabytes of objects.
MAX_JSON_MARKS = 20_000

Pixels = Callable[[], np.ndarray]  # decodes an upright RGB picture [H, W, 3] uint8, or raises RequestError


class Body(NamedTuple):
    """The pictures of a request.

    Attributes:
        pictures: what decodes each, or why it cannot be.
        many: the body was a list, if only of one, and so is the answer.
        each_for_itself: a broken picture leaves the others their answers, as the lines of a batch transform need it.
    """

    pictures: list[Pixels | RequestError]
    many: bool
    each_for_itself: bool = False


def read_body(content_type: str, body: bytes, options: ServeOptions) -> Body:
    """Pictures of a body.

    Raises:
        RequestError: 415 unknown content type, 400 broken, 413 too many pictures, 422 an array that is no picture.
    """
    if not body:
        raise RequestError(
            400,
            f"the body is empty; expected the bytes of a picture or a document of type {', '.join(CONTENT_TYPES[2:])}",
        )
    if content_type == JSON:
        return _read_json(body, options)
    if content_type == JSON_LINES:
        return _read_json_lines(body, options)
    if content_type == NPY:
        return _read_npy(body, options)
    return Body([functools.partial(_decode, body, options.max_pixels)], many=False)


def check_content_type(content_type: str, encoding: str) -> None:
    """Raise RequestError (415) where the body's type or encoding is none that :func:`read_body` reads."""
    if not (content_type.startswith("image/") or content_type in CONTENT_TYPES):
        raise RequestError(
            415, f"content type {content_type!r} is not known; expected one of {', '.join(CONTENT_TYPES)}"
        )
    if encoding.lower() not in ("", "identity"):
        raise RequestError(415, f"content encoding {encoding!r} is not known; send the body as it is")


def _decode(encoded: bytes, max_pixels: int) -> np.ndarray:
    """Pixels of a picture file whose header was looked at first: a small file can ask for any amount of memory."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FILE_FORMATS) as picture:
            width, height = picture.size
    except Exception as error:  # Pillow's readers raise many kinds on hostile bytes
        if isinstance(error, Image.DecompressionBombError):
            raise RequestError(
                413, f"the image has more pixels than Pillow deems safe; at most {max_pixels:,} are taken"
            ) from None
        raise RequestError(
            400, f"the image is not a whole picture of a known format; expected {', '.join(FILE_FORMATS)}"
        ) from None
    _check_pixels(width, height, max_pixels)
    try:
        return decode_image(encoded)
    except UnreadableImage as error:
        raise RequestError(400, str(error)) from None


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise RequestError(413, f"the image has {width} x {height} pixels; at most {max_pixels:,} are taken")


def _read_json(body: bytes, options: ServeOptions) -> Body:
    document = _parse_json(body)
    keys = [key for key in ("image", "images", "instances") if isinstance(document, dict) and key in document]
    if len(keys) != 1:
        raise RequestError(
            400,
            f"the JSON body has {keys or 'none'} of 'image', 'images' and 'instances'; expected an object with one of them",
        )
    if keys == ["image"]:
        return Body([_from_json(document, options)], many=False)
    entries = document[keys[0]]
    if not isinstance(entries, list) or not entries:
        raise RequestError(
            400, f"{keys[0]!r} of the JSON body is {_shown(entries)}; expected a list of images in Base64"
        )
    _check_count(len(entries), options)
    pictures: list[Pixels | RequestError] = []
    for number, entry in enumerate(entries):
        try:
            pictures.append(_from_json(entry, options))
        except RequestError as refusal:
            raise RequestError(refusal.status, f"image {number}: {refusal}") from None
    return Body(pictures, many=True)


def _read_json_lines(body: bytes, options: ServeOptions) -> Body:
    lines = [line for line in body.split(b"\n", options.max_images + 1) if line.strip()]
    if not lines:
        raise RequestError(400, "the body has no line with an image")
    _check_count(len(lines), options)
    pictures: list[Pixels | RequestError] = []
    for line in lines:
        try:
            pictures.append(_from_json(_parse_json(line), options))
        except RequestError as refusal:
            pictures.append(refusal)
    return Body(pictures, many=True, each_for_itself=True)


def _read_npy(body: bytes, options: ServeOptions) -> Body:
    """NumPy's own reader would set aside the memory that the header asks for before looking whether the data is there."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except Exception:  # the header is a Python literal: SyntaxError, ValueError, RecursionError, MemoryError …
        raise RequestError(400, "the body is not an array in NumPy's npy format of version 1 or 2") from None
    if dtype != np.uint8:
        raise RequestError(422, f"the array holds {dtype}; expected uint8, red, green and blue from 0 to 255")
    if len(shape) not in (3, 4) or shape[-1] != 3 or min(shape) < 1:
        raise RequestError(
            422, f"the array has the shape {list(shape)}; expected [height, width, 3] or [images, height, width, 3]"
        )
    data = np.frombuffer(body, np.uint8, offset=stream.tell())
    expected = int(np.prod([int(side) for side in shape], dtype=object))
    if data.size != expected:
        raise RequestError(
            400,
            f"the array of the shape {list(shape)} is cut short or too long: it has {data.size} values, not {expected}",
        )
    array = data.reshape(shape, order="F" if fortran else "C")
    _check_pixels(shape[-2], shape[-3], options.max_pixels)
    if len(shape) == 3:
        return Body([functools.partial(np.ascontiguousarray, array)], many=False)
    _check_count(len(array), options)
    return Body([functools.partial(np.ascontiguousarray, picture) for picture in array], many=True)


def _parse_json(text: bytes) -> Any:
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS:
        raise RequestError(
            413, f"the JSON has more than {MAX_JSON_MARKS:,} values; expected images in Base64 and little else"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the JSON cannot be read: {_shown(str(error))}") from None


def _from_json(entry: Any, options: ServeOptions) -> Pixels:
    """A picture of ``"<Base64>"``, ``{"b64": "<Base64>"}`` or ``{"image": …}`` with one of these."""
    if isinstance(entry, dict):
        entry = entry.get("image", entry.get("b64"))
    if isinstance(entry, dict):
        entry = entry.get("b64")
    if not isinstance(entry, str):
        raise RequestError(
            400,
            f'there is {_shown(entry)} in place of an image; expected Base64: "…", {{"b64": "…"}} or {{"image": "…"}}',
        )
    if entry.startswith("data:"):
        entry = entry.partition(",")[2]
    try:
        encoded = base64.b64decode(entry, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"the image is not Base64: {error}") from None
    return functools.partial(_decode, encoded, options.max_pixels)


def _check_count(count: int, options: ServeOptions) -> None:
    if count > options.max_images:
        raise RequestError(413, f"the request has more images than {options.max_images}; send fewer at a time")


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
