"""Detections -> the response format that the client accepts."""

from __future__ import annotations

import io
import json
from typing import Any, Literal, NamedTuple

import numpy as np
from werkzeug.http import parse_list_header, parse_options_header

from frcnn.inference import Detections
from frcnn.serving.request_body import JSON, JSON_LINES
from frcnn.serving.request_error import RequestError

JPEG, PNG = "image/jpeg", "image/png"
DRAWING_THRESHOLD = 0.5  # minimum score of a drawn box unless the client gives one, as in `frcnn predict`
JPEG_QUALITY = 92
PNG_COMPRESSION = 1  # of zlib: a seventh more bytes than its default level in a quarter of the time

Style = Literal["detections", "prediction", "annotation"]
STYLES: tuple[Style, ...] = ("annotation", "prediction")  # those that a media type names


class ResponseFormat(NamedTuple):
    """Media type of a response, and for JSON its style.

    The styles ``prediction`` and ``annotation`` are those of SageMaker's built-in object-detection algorithm, so that
    its clients work unchanged.
    """

    media: str
    style: Style = "detections"

    @property
    def is_image(self) -> bool:
        return self.media in (JPEG, PNG)

    @property
    def content_type(self) -> str:
        return self.media if self.style == "detections" else f"{self.media};{self.style}=1"


class ImageResult(NamedTuple):
    """Detections of one image of ``width`` x ``height`` pixels, and the pixels ``[H, W, 3]`` if they were kept."""

    detections: Detections
    width: int
    height: int
    pixels: np.ndarray | None = None


ACCEPTED = (JSON, f"{JSON};prediction=1", f"{JSON};annotation=1", JSON_LINES, JPEG, PNG)


class _MediaRange(NamedTuple):
    """An entry of an Accept header, with its position in the header."""

    media: str
    style: Style
    quality: float
    position: int


def negotiate(accept: str, content_type: str) -> ResponseFormat:
    """The best format that an Accept header allows; without the header JSON, or JSON Lines for a body of JSON Lines.

    The quality of a format is that of the most specific range that covers it (RFC 9110, section 12.5.1), so that
    ``q=0`` excludes it. Of equal ones the first in the header is chosen, of one range the default.

    Raises:
        RequestError: 406, none of the formats is acceptable.
    """
    default = ResponseFormat(JSON_LINES if content_type == JSON_LINES else JSON)
    if not accept.strip():
        return default
    ranges = _parse_accept(accept)
    styled = [ResponseFormat(entry.media, entry.style) for entry in ranges if entry.media in (JSON, JSON_LINES)]
    plain = [ResponseFormat(media) for media in (JSON, JSON_LINES, JPEG, PNG)]
    best = default, 0.0, 0
    for offered in dict.fromkeys([default, *plain, *styled]):
        covering = [(specificity, entry) for entry in ranges if (specificity := _specificity(entry, offered))]
        if covering:
            entry = max(covering, key=lambda pair: pair[0])[1]
            if (entry.quality, -entry.position) > best[1:]:
                best = offered, entry.quality, -entry.position
    if best[1] == 0:
        raise RequestError(
            406, f"no response of type {accept[:200]!r} is available; expected one of {', '.join(ACCEPTED)}"
        )
    return best[0]


def _parse_accept(accept: str) -> list[_MediaRange]:
    ranges = []
    for position, item in enumerate(parse_list_header(accept)):
        media, parameters = parse_options_header(item.lower())
        try:
            quality = min(max(float(parameters.get("q", "1")), 0.0), 1.0)
        except ValueError:
            quality = 0.0
        style: Style = "detections"
        if media in (JSON, JSON_LINES):
            style = next((name for name in STYLES if parameters.get(name) == "1"), "detections")
        ranges.append(_MediaRange(media, style, quality, position))
    return ranges


def _specificity(entry: _MediaRange, offered: ResponseFormat) -> int:
    """How closely a range describes a format; 0 if it does not cover it."""
    if entry.media == offered.media:
        return 3 if entry.style == offered.style else 0
    if offered.style != "detections":  # the other styles are for clients that name them
        return 0
    return {f"{offered.media.partition('/')[0]}/*": 2, "*/*": 1}.get(entry.media, 0)


def to_json(result: ImageResult, style: Style, identity: dict[str, Any]) -> dict[str, Any]:
    """Detections of one image as a JSON object.

    Args:
        identity: model version, variant and the model's thresholds if they were applied; the built-in algorithm's
            styles have no fields for them.
    """
    detections = result.detections
    boxes, scores, labels = detections.boxes, detections.scores, detections.labels
    if style == "prediction":
        scale = np.array([result.width, result.height] * 2)
        rows = np.concatenate([labels[:, None] - 1, scores[:, None], boxes / scale], axis=1, dtype=np.float64)
        return {"prediction": rows.tolist()}
    pixels = boxes.round(3).astype(np.float64).round(3).tolist()
    rounded = scores.astype(np.float64).round(6).tolist()
    if style == "annotation":
        return {
            "image_size": [{"width": result.width, "height": result.height, "depth": 3}],
            "annotations": [
                {
                    "class_id": label - 1,
                    "score": score,
                    "left": x1,
                    "top": y1,
                    "width": round(x2 - x1, 3),
                    "height": round(y2 - y1, 3),
                }
                for label, score, (x1, y1, x2, y2) in zip(labels.tolist(), rounded, pixels, strict=True)
            ],
        }
    return {
        "labels": detections.names,
        "scores": rounded,
        "boxes": pixels,
        "image_size": {"width": result.width, "height": result.height},
        **identity,
    }


def write_json(documents: list[dict[str, Any]], accepted: ResponseFormat, is_list: bool) -> bytes:
    """The documents of all images: one per line, as a list, or the single document itself."""
    if accepted.media == JSON_LINES:
        return "".join(json.dumps(document) + "\n" for document in documents).encode()
    return json.dumps({"predictions": documents} if is_list else documents[0]).encode() + b"\n"


def draw(pixels: np.ndarray, detections: Detections, media: str) -> bytes:
    """The image ``[H, W, 3]`` with the boxes drawn, encoded."""
    image = detections.draw(pixels, score_threshold=0.0)
    encoded = io.BytesIO()
    if media == JPEG:
        image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(encoded, "PNG", compress_level=PNG_COMPRESSION)
    return encoded.getvalue()
