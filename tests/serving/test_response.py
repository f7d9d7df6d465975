"""Content negotiation, and the response formats with numbers worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from frcnn.inference import Detections
from frcnn.serving.request_error import RequestError
from frcnn.serving.response import ImageResult, ResponseFormat, negotiate, to_json, write_json

PNG = "image/png"
FOUND = ImageResult(
    Detections(
        np.array([[10, 20, 50.25, 80], [0, 0, 200, 100]], np.float32),
        np.array([0.875, 0.5], np.float32),
        np.array([2, 1], np.int32),
        ("cat", "dog"),
    ),
    width=200,
    height=100,
)


@pytest.mark.parametrize(
    ("accept", "content_type", "expected"),
    [
        ("", PNG, ResponseFormat("application/json")),
        ("*/*", PNG, ResponseFormat("application/json")),
        ("application/*", PNG, ResponseFormat("application/json")),
        ("", "application/jsonlines", ResponseFormat("application/jsonlines")),
        ("*/*", "application/jsonlines", ResponseFormat("application/jsonlines")),
        ("application/json", "application/jsonlines", ResponseFormat("application/json")),
        ("application/jsonlines", PNG, ResponseFormat("application/jsonlines")),
        ("application/json;annotation=1", PNG, ResponseFormat("application/json", "annotation")),
        ("application/jsonlines; annotation=1", PNG, ResponseFormat("application/jsonlines", "annotation")),
        ("application/json; prediction=1; charset=utf-8", PNG, ResponseFormat("application/json", "prediction")),
        ("application/json;annotation=0", PNG, ResponseFormat("application/json")),
        ("text/html, image/png;q=0.5, application/json;q=0.2", PNG, ResponseFormat("image/png")),
        ("image/png;q=0, image/jpeg;q=0.1", PNG, ResponseFormat("image/jpeg")),
        ("text/html,application/xhtml+xml,image/webp,*/*;q=0.8", PNG, ResponseFormat("application/json")),
        ("image/jpeg;q=0, image/*", PNG, ResponseFormat("image/png")),
        ("application/json;q=0, */*;q=0.5", PNG, ResponseFormat("application/jsonlines")),
        ("*/*, application/json;q=0, application/jsonlines;q=0", PNG, ResponseFormat("image/jpeg")),
        ("application/json;prediction=1;q=0.2, application/json;q=0.5", PNG, ResponseFormat("application/json")),
        ("application/json;q=0, application/json;prediction=1", PNG, ResponseFormat("application/json", "prediction")),
        ("image/png, application/json", PNG, ResponseFormat("image/png")),
        ("IMAGE/JPEG", PNG, ResponseFormat("image/jpeg")),
    ],
)
def test_negotiation(accept: str, content_type: str, expected: ResponseFormat) -> None:
    assert negotiate(accept, content_type) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "image/webp",
        "application/json;q=0",
        "*/*;q=0",
        "application/json;q=0.000, text/*",
        "nonsense",
        ";;;",
        "application/xml, text/*",
    ],
)
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(RequestError, match="expected one of application/json, application/json;prediction=1") as error:
        negotiate(accept, PNG)
    assert error.value.status == 406


def test_default_json() -> None:
    assert to_json(FOUND, "detections", {"model_version": "v"}) == {
        "labels": ["dog", "cat"],
        "scores": [0.875, 0.5],
        "boxes": [[10, 20, 50.25, 80], [0, 0, 200, 100]],
        "image_size": {"width": 200, "height": 100},
        "model_version": "v",
    }


def test_the_built_in_algorithms_formats() -> None:
    """Classes from 0 and relative corners; pixels with width and height."""
    assert to_json(FOUND, "prediction", {}) == {
        "prediction": [[1.0, 0.875, 0.05, 0.2, 0.25125, 0.8], [0.0, 0.5, 0.0, 0.0, 1.0, 1.0]]
    }
    assert to_json(FOUND, "annotation", {}) == {
        "image_size": [{"width": 200, "height": 100, "depth": 3}],
        "annotations": [
            {"class_id": 1, "score": 0.875, "left": 10, "top": 20, "width": 40.25, "height": 60},
            {"class_id": 0, "score": 0.5, "left": 0, "top": 0, "width": 200, "height": 100},
        ],
    }


def test_no_detections() -> None:
    nothing = ImageResult(
        Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)), 3, 4
    )
    assert to_json(nothing, "prediction", {}) == {"prediction": []}
    assert to_json(nothing, "annotation", {})["annotations"] == []
    assert to_json(nothing, "detections", {})["boxes"] == []


def test_single_document_list_and_lines() -> None:
    lines = write_json([{"a": "line\nbreak"}, {"b": 2}], ResponseFormat("application/jsonlines"), is_list=True)
    assert [json.loads(line) for line in lines.splitlines()] == [{"a": "line\nbreak"}, {"b": 2}]
    assert json.loads(write_json([{"a": 1}], ResponseFormat("application/json"), is_list=True)) == {
        "predictions": [{"a": 1}]
    }
    assert json.loads(write_json([{"a": 1}], ResponseFormat("application/json"), is_list=False)) == {"a": 1}
