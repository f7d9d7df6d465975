"""Responses of the endpoint, compared with the same model in this process."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving_client import CLASSES, Endpoint, encode, make_image

from frcnn.data.decode import decode_image
from frcnn.inference import Detections, Detector

IMAGE = make_image()


def b64(encoded: bytes) -> str:
    return base64.b64encode(encoded).decode()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def assert_same(answer: dict[str, Any], expected: Detections, size: tuple[int, int]) -> None:
    assert set(answer) == {"labels", "scores", "boxes", "image_size", "model_version", "variant"}
    assert answer["image_size"] == {"width": size[0], "height": size[1]}
    assert len(expected.scores) > 0
    assert answer["labels"] == [CLASSES[label - 1] for label in expected.labels]
    np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-5)
    np.testing.assert_allclose(answer["boxes"], expected.boxes, atol=1e-2)
    assert answer["variant"] == "blue"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("image/png", encode(IMAGE)),
        ("image/jpeg", encode(IMAGE)),  # the format is detected from the bytes
        ("image/webp", encode(IMAGE, "WEBP", lossless=True)),
        ("application/x-image", encode(IMAGE, "BMP")),
        ("application/x-npy", npy(IMAGE)),
        ("application/x-npy", npy(np.asfortranarray(IMAGE))),
        ("application/json", json.dumps({"image": b64(encode(IMAGE))}).encode()),
        ("application/json; charset=utf-8", json.dumps({"image": {"b64": b64(encode(IMAGE))}}).encode()),
        ("application/json", json.dumps({"image": "data:image/png;base64," + b64(encode(IMAGE))}).encode()),
        ("application/json", json.dumps({"image": base64.encodebytes(encode(IMAGE)).decode()}).encode()),
        ("application/json", json.dumps({"image": b64(encode(IMAGE)).replace("A", "A\r\n")}).encode()),
        ("application/octet-stream", encode(IMAGE)),
        ("application/octet-stream", npy(IMAGE)),
        ("application/octet-stream", b"\n " + json.dumps({"image": b64(encode(IMAGE))}).encode()),
        ("", encode(IMAGE)),
    ],
)
def test_one_image_in_every_content_type(
    endpoint: Endpoint, detector: Detector, content_type: str, body: bytes
) -> None:
    response = endpoint.post(body, content_type)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert_same(response.json(), detector.detect([IMAGE])[0], (90, 60))


IMAGES = [make_image(90, 60), make_image(50, 80, seed=1), make_image(70, 70, seed=2)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"images": [b64(encode(p)) for p in IMAGES]}).encode()),
        ("application/json", json.dumps({"instances": [{"b64": b64(encode(p))} for p in IMAGES]}).encode()),
        (
            "application/json",
            json.dumps({"instances": [{"image": {"b64": b64(encode(p))}} for p in IMAGES]}).encode(),
        ),
    ],
)
def test_a_list_of_images_keeps_its_order(
    endpoint: Endpoint, detector: Detector, content_type: str, body: bytes
) -> None:
    response = endpoint.post(body, content_type)
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    for answer, expected, pixels in zip(answers, detector.detect(IMAGES), IMAGES, strict=True):
        assert_same(answer, expected, (pixels.shape[1], pixels.shape[0]))


def test_a_stack_of_arrays(endpoint: Endpoint, detector: Detector) -> None:
    stack = np.stack([make_image(40, 40, seed) for seed in range(3)])
    answers = endpoint.post(npy(stack), "application/x-npy").json()["predictions"]
    for answer, expected in zip(answers, detector.detect(list(stack)), strict=True):
        assert_same(answer, expected, (40, 40))


def test_a_broken_line_does_not_fail_the_other_lines(endpoint: Endpoint, detector: Detector) -> None:
    """Batch transform joins results to input lines by position."""
    lines = [json.dumps({"b64": b64(encode(IMAGE))}), '{"b64": "AAAA"}', "{", json.dumps(b64(encode(IMAGE)))]
    response = endpoint.post("\n".join(lines).encode(), "application/jsonlines")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/jsonlines"
    answers = [json.loads(line) for line in response.text.splitlines()]
    expected = detector.detect([IMAGE])[0]
    for answer in (answers[0], answers[3]):
        assert_same(answer, expected, (90, 60))
    assert [answer["status"] for answer in answers[1:3]] == [400, 400]
    assert "not an image of a known format" in answers[1]["error"]
    assert "JSON cannot be parsed" in answers[2]["error"]


def test_exif_orientation_is_applied(endpoint: Endpoint, detector: Detector) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    encoded = encode(IMAGE, "JPEG", quality=95, exif=exif)
    upright = decode_image(encoded)
    assert upright.shape == (90, 60, 3)
    assert_same(endpoint.post(encoded, "image/jpeg").json(), detector.detect([upright])[0], (60, 90))


def test_the_built_in_algorithms_two_formats(endpoint: Endpoint, detector: Detector) -> None:
    expected = detector.detect([IMAGE])[0]
    rows = np.array(endpoint.post(encode(IMAGE), accept="application/json;prediction=1").json()["prediction"])
    np.testing.assert_array_equal(rows[:, 0], expected.labels - 1)
    np.testing.assert_allclose(rows[:, 1], expected.scores, atol=1e-5)
    np.testing.assert_allclose(rows[:, 2:] * [90, 60, 90, 60], expected.boxes, atol=1e-2)
    response = endpoint.post(encode(IMAGE), accept="application/json; annotation=1")
    assert response.headers["Content-Type"] == "application/json;annotation=1"
    answer = response.json()
    assert answer["image_size"] == [{"width": 90, "height": 60, "depth": 3}]
    first, (x1, y1, x2, y2) = answer["annotations"][0], expected.boxes[0].tolist()
    assert set(first) == {"class_id", "score", "left", "top", "width", "height"}
    assert first["class_id"] == expected.labels[0] - 1
    corners = [first["left"], first["top"], first["left"] + first["width"], first["top"] + first["height"]]
    np.testing.assert_allclose(corners, [x1, y1, x2, y2], atol=1e-2)
    assert len(answer["annotations"]) == len(expected.scores)


@pytest.mark.parametrize(("accept", "format"), [("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/*", "JPEG")])
def test_a_drawn_image(endpoint: Endpoint, accept: str, format: str) -> None:
    black = np.zeros((500, 600, 3), np.uint8)
    drawn = endpoint.post(encode(black), accept=accept, params={"score_threshold": 0})
    plain = endpoint.post(encode(black), accept=accept, params={"max_detections": 0})
    assert drawn.headers["Content-Type"] == f"image/{format.lower()}"
    with Image.open(io.BytesIO(drawn.content)) as first, Image.open(io.BytesIO(plain.content)) as second:
        assert (first.format, first.size, second.size) == (format, (600, 500), (600, 500))
        assert np.asarray(first).max() > 100
        assert np.asarray(second).max() == 0
    assert f"model_version={drawn.headers['X-Model-Version']}" in drawn.headers["X-Amzn-SageMaker-Custom-Attributes"]


@pytest.mark.parametrize("size", [(90, 60), (600, 500)])
def test_a_drawn_image_is_that_of_the_python_interface(
    endpoint: Endpoint, detector: Detector, size: tuple[int, int]
) -> None:
    """The pixels of the small image are kept until they are drawn in; the large one is decoded again."""
    image = make_image(*size)
    response = endpoint.post(encode(image), accept="image/png", params={"score_threshold": 0})
    with Image.open(io.BytesIO(response.content)) as drawn:
        np.testing.assert_array_equal(drawn, detector.detect([image])[0].draw(image, 0.0))


def test_selection_by_query_and_by_custom_attributes(endpoint: Endpoint, detector: Detector) -> None:
    expected = detector.detect([IMAGE])[0]
    middle = float(np.median(expected.scores))
    answer = endpoint.post(encode(IMAGE), params={"score_threshold": middle}).json()
    assert len(answer["scores"]) == (expected.scores.astype(np.float64) >= middle).sum()
    header = {"X-Amzn-SageMaker-Custom-Attributes": "trace=7,max_detections=2,classes=cell,dust, fine"}
    response = endpoint.post(
        encode(IMAGE), headers={"X-Amzn-SageMaker-Custom-Attributes": "trace=7,max_detections=2,classes=cell,hair"}
    )
    wanted = expected.scores[expected.labels != 2][:2]
    np.testing.assert_allclose(response.json()["scores"], wanted, atol=1e-5)
    version = response.json()["model_version"]
    attributes = response.headers["X-Amzn-SageMaker-Custom-Attributes"]
    assert attributes == f"trace=7,max_detections=2,classes=cell,hair,model_version={version},variant=blue"
    assert endpoint.post(encode(IMAGE), headers=header).status_code == 422  # "dust" alone is no class
    only = endpoint.post(encode(IMAGE), params={"classes": "dust, fine"}).json()
    assert set(only["labels"]) == {"dust, fine"}


@pytest.mark.parametrize(
    ("status", "request_of", "reason"),
    [
        (415, {"content_type": "text/plain"}, "unknown content type 'text/plain'; expected one of image/*"),
        (415, {"headers": {"Content-Encoding": "gzip"}}, "content encoding 'gzip'"),
        (406, {"accept": "text/html"}, "no response of type 'text/html'"),
        (406, {"accept": "application/json;q=0"}, "no response of type"),
        (400, {"params": {"score_threshold": "high"}}, "'score_threshold' is 'high'; expected a number from 0 to 1"),
        (400, {"params": {"score_threshold": "nan"}}, "'nan'"),
        (400, {"params": {"max_detections": "1.5"}}, "expected an integer"),
        (
            400,
            {"params": {"threshold": "0.5"}},
            "unknown parameter 'threshold'; expected score_threshold, max_detections, classes",
        ),
        (422, {"params": {"classes": "cat"}}, "no class 'cat'; its classes are cell, dust, fine, hair"),
    ],
)
def test_an_error_states_its_reason(endpoint: Endpoint, status: int, request_of: dict[str, Any], reason: str) -> None:
    response = endpoint.post(encode(IMAGE), **request_of)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    assert reason in response.json()["error"]
    assert response.json()["status"] == status


def test_a_list_cannot_be_drawn(endpoint: Endpoint) -> None:
    body = json.dumps({"images": [b64(encode(IMAGE))]}).encode()
    response = endpoint.post(body, "application/json", accept="image/png")
    assert response.status_code == 406
    assert "holds one image" in response.json()["error"]


def test_other_paths_and_methods(endpoint: Endpoint) -> None:
    assert endpoint.get("/ping").content == b""
    missing = endpoint.get("/missing")
    assert (missing.status_code, missing.json()["status"]) == (404, 404)
    wrong = endpoint.get("/invocations")
    assert (wrong.status_code, set(wrong.headers["Allow"].split(", "))) == (405, {"OPTIONS", "POST"})
    parameters = endpoint.get("/execution-parameters").json()
    assert parameters["BatchStrategy"] == "SINGLE_RECORD"
    assert 1 <= parameters["MaxConcurrentTransforms"] * parameters["MaxPayloadInMB"] <= 100


def test_the_limit_of_the_body(endpoint: Endpoint, detector: Detector) -> None:
    padded = encode(IMAGE, "BMP") + bytes(25_000_000)
    assert_same(endpoint.post(padded, "image/bmp").json(), detector.detect([IMAGE])[0], (90, 60))
    response = endpoint.post(bytes(31 << 20))
    assert response.status_code == 413
    assert "body is larger than the" in response.json()["error"]


def test_requests_are_logged_and_counted(endpoint: Endpoint) -> None:
    assert (
        endpoint.post(encode(IMAGE), headers={"X-Request-Id": "client-1"}, params={"max_detections": 3}).headers[
            "X-Request-Id"
        ]
        == "client-1"
    )
    answer = endpoint.post(b"x", headers={"X-Request-Id": "client-2"})
    assert answer.json()["request_id"] == "client-2"
    odd = endpoint.post(b"x", headers={"X-Request-Id": 'a" b'}).headers["X-Request-Id"]
    assert len(odd) == 32  # an id that could forge a log line is replaced
    lines = {line["id"]: line for line in endpoint.log()}
    good, bad = lines["client-1"], lines["client-2"]
    assert (good["status"], good["sizes"], good["detections"], good["variant"]) == (200, [[90, 60]], 3, "blue")
    assert good["bytes_in"] == len(encode(IMAGE))
    assert {"read", "decode", "prepare", "wait", "detect", "answer", "total"} == set(good["ms"])
    assert (bad["status"], bad["error"]) == (400, answer.json()["error"])
    counted = endpoint.get("/metrics").text
    statuses = [line["status"] for line in endpoint.log()]
    assert (
        f'frcnn_requests_total{{model_version="{good["model_version"]}",status="200"}} {statuses.count(200)}.0'
        in counted
    )
    assert "frcnn_worker_healthy 1.0" in counted


def test_results_do_not_depend_on_concurrent_requests(
    endpoint: Endpoint, detector: Detector, healthy: Callable[[], bool]
) -> None:
    """Forty requests on three canvases: each gets its own result, and pings succeed meanwhile."""
    images = [make_image(90, 60, 1), make_image(60, 90, 2), make_image(64, 64, 3)]
    expected = detector.detect(images)
    jobs = [number % 3 for number in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(lambda job: endpoint.post(encode(images[job])), jobs)
        assert all(healthy() for _ in range(5))
        for job, answer in zip(jobs, answers, strict=True):
            assert_same(answer.json(), expected[job], (images[job].shape[1], images[job].shape[0]))
    assert max(line.get("batch", 0) for line in endpoint.log()) == 2  # some shared a batch


@pytest.fixture
def healthy(endpoint: Endpoint) -> Callable[[], bool]:
    return lambda: endpoint.get("/ping").status_code == 200
