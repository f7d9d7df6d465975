"""Request bodies -> images. Nothing is decoded here: the bytes become pixels later, a few images at a time."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from typing import Any, NamedTuple

import numpy as np

from frcnn.serving.options import ServeOptions
from frcnn.serving.request_error import RequestError

JSON, JSON_LINES, NPY = "application/json", "application/jsonlines", "application/x-npy"
OCTET_STREAM = "application/octet-stream"  # what clients send that do not know better; the bytes decide
CONTENT_TYPES = ("image/*", "application/x-image", JSON, JSON_LINES, NPY, OCTET_STREAM)
NPY_MAGIC = b"\x93NUMPY"

# Maximum number of commas and brackets in a JSON body. Base64 contains none, so that few suffice, and 100 MB of
# "[],[],…" are rejected before they become gigabytes of objects.
MAX_JSON_MARKS = 20_000

EncodedImage = bytes | np.ndarray  # an image file, or an upright RGB array [H, W, 3] uint8


class Body(NamedTuple):
    """The images of a request.

    Attributes:
        images: the images, or the reason why one cannot be read.
        is_list: the body was a list, even if of one image; so is the response.
        independent: a broken image does not fail the others, as batch transform needs it for the lines of JSON Lines.
    """

    images: list[EncodedImage | RequestError]
    is_list: bool
    independent: bool = False


def read_body(content_type: str, body: bytes, options: ServeOptions) -> Body:
    """Images of a body.

    Raises:
        RequestError: 415 unknown content type, 400 broken, 413 too many images, 422 an array that is not an image.
    """
    if not body:
        raise RequestError(
            400, f"the body is empty; expected an image file or a document of type {JSON}, {JSON_LINES} or {NPY}"
        )
    if content_type == OCTET_STREAM:
        content_type = _detect_type(body)
    if content_type == JSON:
        return _read_json(body, options)
    if content_type == JSON_LINES:
        return _read_json_lines(body, options)
    if content_type == NPY:
        return _read_npy(body, options)
    return Body([body], is_list=False)


def _detect_type(body: bytes) -> str:
    if body.startswith(NPY_MAGIC):
        return NPY
    return JSON if body.lstrip()[:1] == b"{" else "image/*"


def check_content_type(content_type: str, encoding: str) -> None:
    """Raise RequestError (415) unless :func:`read_body` reads this content type and encoding."""
    if not (content_type.startswith("image/") or content_type in CONTENT_TYPES):
        raise RequestError(415, f"unknown content type {content_type!r}; expected one of {', '.join(CONTENT_TYPES)}")
    if encoding.lower() not in ("", "identity"):
        raise RequestError(415, f"unsupported content encoding {encoding!r}; send the body without one")


def _read_json(body: bytes, options: ServeOptions) -> Body:
    document = _parse_json(body)
    keys = [key for key in ("image", "images", "instances") if isinstance(document, dict) and key in document]
    if len(keys) != 1:
        found = " and ".join(map(repr, keys)) or "none"
        raise RequestError(
            400, f"expected a JSON object with exactly one of 'image', 'images' and 'instances'; found {found}"
        )
    if keys == ["image"]:
        return Body([_from_json(document)], is_list=False)
    entries = document[keys[0]]
    if not isinstance(entries, list) or not entries:
        raise RequestError(
            400, f"{keys[0]!r} of the JSON body is {_shorten(entries)}; expected a non-empty list of images in Base64"
        )
    _check_count(len(entries), options)
    images: list[EncodedImage | RequestError] = []
    for number, entry in enumerate(entries):
        try:
            images.append(_from_json(entry))
        except RequestError as error:
            raise RequestError(error.status, f"image {number}: {error}") from None
    return Body(images, is_list=True)


def _read_json_lines(body: bytes, options: ServeOptions) -> Body:
    lines = [line for line in body.split(b"\n", options.max_images + 1) if line.strip()]
    if not lines:
        raise RequestError(400, "the body has only empty lines; expected one image per line")
    _check_count(len(lines), options)
    images: list[EncodedImage | RequestError] = []
    for line in lines:
        try:
            images.append(_from_json(_parse_json(line)))
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
        raise RequestError(422, f"the array has dtype {_shorten(dtype)}; expected uint8, RGB from 0 to 255")
    if len(shape) not in (3, 4) or shape[-1] != 3 or min(shape) < 1:
        raise RequestError(
            422,
            f"the array has shape {_shorten(list(shape))}; expected [height, width, 3] or [images, height, width, 3]",
        )
    shape = tuple(map(int, shape))  # True is an int as well
    data = memoryview(body)[stream.tell() :]
    if math.prod(shape) != len(data):
        raise RequestError(
            400, f"the array of shape {_shorten(list(shape))} is truncated or too long: it has {len(data)} values"
        )
    height, width = shape[-3:-1]
    if height * width > options.max_pixels:
        raise RequestError(413, f"the image has {width} x {height} pixels; the maximum is {options.max_pixels:,}")
    array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran_order else "C")
    if len(shape) == 3:
        return Body([array], is_list=False)
    _check_count(len(array), options)
    return Body(list(array), is_list=True)


def _parse_json(text: bytes) -> Any:
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS:
        raise RequestError(
            413, f"the JSON has more than {MAX_JSON_MARKS:,} values; expected images in Base64 and little else"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the JSON cannot be parsed: {_shorten(str(error))}") from None


def _from_json(entry: Any) -> bytes:
    """Image file of ``"<Base64>"``, ``{"b64": "<Base64>"}`` or ``{"image": …}`` with one of these."""
    if isinstance(entry, dict):
        entry = entry.get("image", entry.get("b64"))
    if isinstance(entry, dict):
        entry = entry.get("b64")
    if not isinstance(entry, str):
        raise RequestError(
            400, f'found {_shorten(entry)}; expected an image in Base64 as "…", {{"b64": "…"}} or {{"image": "…"}}'
        )
    if entry[:5].lower() == "data:":
        header, _, entry = entry.partition(",")
        if not header.lower().endswith(";base64"):
            raise RequestError(400, f"the data: URL starts with {_shorten(header)!r}; expected data:image/…;base64,…")
    try:
        # Line ends, as the command base64 writes them; nothing else is ignored.
        return base64.b64decode(entry.encode("ascii").translate(None, b"\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"the image is not valid Base64: {_shorten(str(error))}") from None


def _check_count(count: int, options: ServeOptions) -> None:
    if count > options.max_images:
        raise RequestError(413, f"the request has more than {options.max_images} images; send fewer at a time")


def _shorten(value: Any) -> str:
    try:
        text = str(value) if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists in lists
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:77]}…"
