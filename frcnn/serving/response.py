"""Detections -> the response format that the client accepts."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from frcnn.evaluation.visualize import draw_detections
from frcnn.inference import Detections
from frcnn.serving.request_body import JSON, JSON_LINES
from frcnn.serving.request_error import RequestError

JPEG, PNG = "image/jpeg", "image/png"
DRAWING_THRESHOLD = 0.5  # minimum score of a drawn box unless the client gives one, as in `frcnn predict`
JPEG_QUALITY = 92

Style = Literal["detections", "prediction", "annotation"]


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
    """Detections of one image of ``width`` x ``height`` pixels."""

    detections: Detections
    width: int
    height: int


ACCEPTED = (JSON, f"{JSON};prediction=1", f"{JSON};annotation=1", JSON_LINES, JPEG, PNG)


def negotiate(accept: str, content_type: str) -> ResponseFormat:
    """The best format that an Accept header allows; without the header JSON, or JSON Lines for a body of JSON Lines.

    Raises:
        RequestError: 406, none of the formats is acceptable.
    """
    default = ResponseFormat(JSON_LINES if content_type == JSON_LINES else JSON)
    ranges = parse_accept_header(accept, MIMEAccept)
    for value, quality in ranges:
        if quality > 0 and (found := _format_for(value, default)):
            return found
    if not ranges:
        return default
    raise RequestError(406, f"no response of type {accept[:200]!r} is available; expected one of {', '.join(ACCEPTED)}")


def _format_for(media_range: str, default: ResponseFormat) -> ResponseFormat | None:
    media, parameters = parse_options_header(media_range.lower())
    if media in ("*/*", "application/*"):
        return default
    if media in (JPEG, "image/*"):
        return ResponseFormat(JPEG)
    if media == PNG:
        return ResponseFormat(PNG)
    if media in (JSON, JSON_LINES):
        if parameters.get("annotation") == "1":
            return ResponseFormat(media, "annotation")
        return ResponseFormat(media, "prediction" if parameters.get("prediction") == "1" else "detections")
    return None


def to_json(result: ImageResult, style: Style, class_names: Sequence[str], identity: dict[str, str]) -> dict[str, Any]:
    """Detections of one image as a JSON object.

    Args:
        identity: model version and variant; the built-in algorithm's styles have no fields for them.
    """
    boxes, scores, labels = result.detections
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
        "labels": [class_names[label - 1] for label in labels.tolist()],
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


def draw(pixels: np.ndarray, detections: Detections, class_names: Sequence[str], media: str) -> bytes:
    """The image ``[H, W, 3]`` with the boxes drawn, encoded."""
    image = draw_detections(pixels, detections, class_names, score_threshold=0.0)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG" if media == JPEG else "PNG", quality=JPEG_QUALITY)
    return encoded.getvalue()
