"""Detections -> what the caller accepts."""

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
DRAWN_THRESHOLD = 0.5  # least score of a box in a drawn picture where the caller names none, as in `frcnn predict`
JPEG_QUALITY = 92

Style = Literal["detections", "prediction", "annotation"]


class ResponseFormat(NamedTuple):
    """What the caller accepts: media type, and of JSON the style.

    ``prediction`` and ``annotation`` are those of SageMaker's built-in object-detection algorithm, so that its callers need
    not change.
    """

    media: str
    style: Style = "detections"

    @property
    def drawn(self) -> bool:
        return self.media in (JPEG, PNG)

    @property
    def content_type(self) -> str:
        return self.media if self.style == "detections" else f"{self.media};{self.style}=1"


class Found(NamedTuple):
    """The detections of one picture of ``width`` x ``height`` pixels."""

    detections: Detections
    width: int
    height: int


ACCEPTED = (JSON, f"{JSON};prediction=1", f"{JSON};annotation=1", JSON_LINES, JPEG, PNG)


def negotiate(accept: str, content_type: str) -> ResponseFormat:
    """The best answer that an Accept header takes; without one JSON, or JSON lines for JSON lines.

    Raises:
        RequestError: 406, there is none.
    """
    default = ResponseFormat(JSON_LINES if content_type == JSON_LINES else JSON)
    wanted = parse_accept_header(accept, MIMEAccept)
    for value, quality in wanted:
        if quality > 0 and (answer := _answer_of(value, default)):
            return answer
    if not wanted:
        return default
    raise RequestError(406, f"no answer of type {accept[:200]!r} can be given; expected one of {', '.join(ACCEPTED)}")


def _answer_of(value: str, default: ResponseFormat) -> ResponseFormat | None:
    media, parameters = parse_options_header(value.lower())
    if media == "*/*":
        return default
    if media == "application/*":
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


def json_of(found: Found, style: Style, class_names: Sequence[str], identity: dict[str, str]) -> dict[str, Any]:
    """One picture's detections as a JSON object.

    Args:
        identity: model version and variant; the styles of the built-in algorithm have no place for them.
    """
    boxes, scores, labels = found.detections
    if style == "prediction":
        scale = np.array([found.width, found.height] * 2)
        rows = np.concatenate([labels[:, None] - 1, scores[:, None], boxes / scale], axis=1, dtype=np.float64)
        return {"prediction": rows.tolist()}
    pixels = boxes.round(3).astype(np.float64).round(3).tolist()
    rounded = scores.astype(np.float64).round(6).tolist()
    if style == "annotation":
        return {
            "image_size": [{"width": found.width, "height": found.height, "depth": 3}],
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
        "image_size": {"width": found.width, "height": found.height},
        **identity,
    }


def write_json(documents: list[dict[str, Any]], answer: ResponseFormat, many: bool) -> bytes:
    """The documents of all pictures: a line each, a list, or the one document itself."""
    if answer.media == JSON_LINES:
        return "".join(json.dumps(document) + "\n" for document in documents).encode()
    return json.dumps({"predictions": documents} if many else documents[0]).encode() + b"\n"


def draw(pixels: np.ndarray, detections: Detections, class_names: Sequence[str], media: str) -> bytes:
    """The picture ``[H, W, 3]`` with the boxes, encoded."""
    picture = draw_detections(pixels, detections, class_names, score_threshold=0.0)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG" if media == JPEG else "PNG", quality=JPEG_QUALITY)
    return encoded.getvalue()
