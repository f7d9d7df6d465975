"""What the endpoint answers, against the same model in this process."""

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
from serving_client import CLASSES, Endpoint, encode, picture

from frcnn.data.decode import decode_image
from frcnn.inference import Detections, Detector

SMOOTH = picture()


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
        ("image/png", encode(SMOOTH)),
        ("image/jpeg", encode(SMOOTH)),  # the bytes say what they are
        ("image/webp", encode(SMOOTH, "WEBP", lossless=True)),
        ("application/x-image", encode(SMOOTH, "BMP")),
        ("application/x-npy", npy(SMOOTH)),
        ("application/x-npy", npy(np.asfortranarray(SMOOTH))),
        ("application/json", json.dumps({"image": b64(encode(SMOOTH))}).encode()),
        ("application/json; charset=utf-8", json.dumps({"image": {"b64": b64(encode(SMOOTH))}}).encode()),
        ("application/json", json.dumps({"image": "data:image/png;base64," + b64(encode(SMOOTH))}).encode()),
    ],
)
def test_one_picture_in_every_content_type(
    endpoint: Endpoint, detector: Detector, content_type: str, body: bytes
) -> None:
    response = endpoint.post(body, content_type)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert_same(response.json(), detector.detect([SMOOTH])[0], (90, 60))


PICTURES = [picture(90, 60), picture(50, 80, seed=1), picture(70, 70, seed=2)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"images": [b64(encode(p)) for p in PICTURES]}).encode()),
        ("application/json", json.dumps({"instances": [{"b64": b64(encode(p))} for p in PICTURES]}).encode()),
        (
            "application/json",
            json.dumps({"instances": [{"image": {"b64": b64(encode(p))}} for p in PICTURES]}).encode(),
        ),
    ],
)
def test_many_pictures_keep_their_order(endpoint: Endpoint, detector: Detector, content_type: str, body: bytes) -> None:
    response = endpoint.post(body, content_type)
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    for answer, expected, pixels in zip(answers, detector.detect(PICTURES), PICTURES, strict=True):
        assert_same(answer, expected, (pixels.shape[1], pixels.shape[0]))


def test_a_stack_of_arrays(endpoint: Endpoint, detector: Detector) -> None:
    stack = np.stack([picture(40, 40, seed) for seed in range(3)])
    answers = endpoint.post(npy(stack), "application/x-npy").json()["predictions"]
    for answer, expected in zip(answers, detector.detect(list(stack)), strict=True):
        assert_same(answer, expected, (40, 40))


def test_a_broken_line_leaves_the_others_their_answers(endpoint: Endpoint, detector: Detector) -> None:
    """Batch transform joins answers to lines by their place."""
    lines = [json.dumps({"b64": b64(encode(SMOOTH))}), '{"b64": "AAAA"}', "{", json.dumps(b64(encode(SMOOTH)))]
    response = endpoint.post("\n".join(lines).encode(), "application/jsonlines")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/jsonlines"
    answers = [json.loads(line) for line in response.text.splitlines()]
    expected = detector.detect([SMOOTH])[0]
    for answer in (answers[0], answers[3]):
        assert_same(answer, expected, (90, 60))
    assert [answer["status"] for answer in answers[1:3]] == [400, 400]
    assert "not a whole picture" in answers[1]["error"]
    assert "JSON cannot be read" in answers[2]["error"]


def test_exif_orientation_is_honoured(endpoint: Endpoint, detector: Detector) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    encoded = encode(SMOOTH, "JPEG", quality=95, exif=exif)
    upright = decode_image(encoded)
    assert upright.shape == (90, 60, 3)
    assert_same(endpoint.post(encoded, "image/jpeg").json(), detector.detect([upright])[0], (60, 90))


def test_the_built_in_algorithms_two_formats(endpoint: Endpoint, detector: Detector) -> None:
    expected = detector.detect([SMOOTH])[0]
    rows = np.array(endpoint.post(encode(SMOOTH), accept="application/json;prediction=1").json()["prediction"])
    np.testing.assert_array_equal(rows[:, 0], expected.labels - 1)
    np.testing.assert_allclose(rows[:, 1], expected.scores, atol=1e-5)
    np.testing.assert_allclose(rows[:, 2:] * [90, 60, 90, 60], expected.boxes, atol=1e-2)
    response = endpoint.post(encode(SMOOTH), accept="application/json; annotation=1")
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
def test_a_drawn_picture(endpoint: Endpoint, accept: str, format: str) -> None:
    black = np.zeros((500, 600, 3), np.uint8)
    drawn = endpoint.post(encode(black), accept=accept, params={"score_threshold": 0})
    plain = endpoint.post(encode(black), accept=accept, params={"max_detections": 0})
    assert drawn.headers["Content-Type"] == f"image/{format.lower()}"
    with Image.open(io.BytesIO(drawn.content)) as first, Image.open(io.BytesIO(plain.content)) as second:
        assert (first.format, first.size, second.size) == (format, (600, 500), (600, 500))
        assert np.asarray(first).max() > 100
        assert np.asarray(second).max() == 0
    assert f"model_version={drawn.headers['X-Model-Version']}" in drawn.headers["X-Amzn-SageMaker-Custom-Attributes"]


def test_selection_by_query_and_by_custom_attributes(endpoint: Endpoint, detector: Detector) -> None:
    expected = detector.detect([SMOOTH])[0]
    middle = float(np.median(expected.scores))
    answer = endpoint.post(encode(SMOOTH), params={"score_threshold": middle}).json()
    assert len(answer["scores"]) == (expected.scores.astype(np.float64) >= middle).sum()
    header = {"X-Amzn-SageMaker-Custom-Attributes": "trace=7,max_detections=2,classes=cell,dust, fine"}
    response = endpoint.post(
        encode(SMOOTH), headers={"X-Amzn-SageMaker-Custom-Attributes": "trace=7,max_detections=2,classes=cell,hair"}
    )
    wanted = expected.scores[expected.labels != 2][:2]
    np.testing.assert_allclose(response.json()["scores"], wanted, atol=1e-5)
    version = response.json()["model_version"]
    told = response.headers["X-Amzn-SageMaker-Custom-Attributes"]
    assert told == f"trace=7,max_detections=2,classes=cell,hair,model_version={version},variant=blue"
    assert endpoint.post(encode(SMOOTH), headers=header).status_code == 422  # "dust" alone is no class
    only = endpoint.post(encode(SMOOTH), params={"classes": "dust, fine"}).json()
    assert set(only["labels"]) == {"dust, fine"}


@pytest.mark.parametrize(
    ("status", "request_of", "reason"),
    [
        (415, {"content_type": "text/plain"}, "content type 'text/plain' is not known; expected one of image/*"),
        (415, {"headers": {"Content-Encoding": "gzip"}}, "content encoding 'gzip'"),
        (406, {"accept": "text/html"}, "no answer of type 'text/html'"),
        (406, {"accept": "application/json;q=0"}, "no answer of type"),
        (400, {"params": {"score_threshold": "high"}}, "'score_threshold' is 'high'; expected a number from 0 to 1"),
        (400, {"params": {"score_threshold": "nan"}}, "'nan'"),
        (400, {"params": {"max_detections": "1.5"}}, "expected a whole number"),
        (
            400,
            {"params": {"threshold": "0.5"}},
            "'threshold' is not known; expected score_threshold, max_detections, classes",
        ),
        (422, {"params": {"classes": "cat"}}, "no class 'cat'; it has cell, dust, fine, hair"),
    ],
)
def test_a_refusal_says_why(endpoint: Endpoint, status: int, request_of: dict[str, Any], reason: str) -> None:
    response = endpoint.post(encode(SMOOTH), **request_of)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    assert reason in response.json()["error"]
    assert response.json()["status"] == status


def test_a_list_has_no_drawn_answer(endpoint: Endpoint) -> None:
    body = json.dumps({"images": [b64(encode(SMOOTH))]}).encode()
    response = endpoint.post(body, "application/json", accept="image/png")
    assert response.status_code == 406
    assert "has room for one picture" in response.json()["error"]


def test_other_paths_and_methods(endpoint: Endpoint) -> None:
    assert endpoint.get("/ping").content == b""
    nowhere = endpoint.get("/nowhere")
    assert (nowhere.status_code, nowhere.json()["status"]) == (404, 404)
    wrong = endpoint.get("/invocations")
    assert (wrong.status_code, set(wrong.headers["Allow"].split(", "))) == (405, {"OPTIONS", "POST"})
    parameters = endpoint.get("/execution-parameters").json()
    assert parameters["BatchStrategy"] == "SINGLE_RECORD"
    assert 1 <= parameters["MaxConcurrentTransforms"] * parameters["MaxPayloadInMB"] <= 100


def test_a_body_of_25_mb_passes_and_a_larger_one_than_allowed_does_not(endpoint: Endpoint, detector: Detector) -> None:
    padded = encode(SMOOTH, "BMP") + bytes(25_000_000)
    assert_same(endpoint.post(padded, "image/bmp").json(), detector.detect([SMOOTH])[0], (90, 60))
    response = endpoint.post(bytes(31 << 20))
    assert response.status_code == 413
    assert "body is larger than" in response.json()["error"]


def test_the_log_has_a_line_a_request_and_metrics_count_them(endpoint: Endpoint) -> None:
    assert (
        endpoint.post(encode(SMOOTH), headers={"X-Request-Id": "mine-1"}, params={"max_detections": 3}).headers[
            "X-Request-Id"
        ]
        == "mine-1"
    )
    answer = endpoint.post(b"x", headers={"X-Request-Id": "mine-2"})
    assert answer.json()["request_id"] == "mine-2"
    odd = endpoint.post(b"x", headers={"X-Request-Id": 'a" b'}).headers["X-Request-Id"]
    assert len(odd) == 32  # an id that could forge a line of the log is replaced
    lines = {line["id"]: line for line in endpoint.log()}
    good, bad = lines["mine-1"], lines["mine-2"]
    assert (good["status"], good["sizes"], good["detections"], good["variant"]) == (200, [[90, 60]], 3, "blue")
    assert good["bytes_in"] == len(encode(SMOOTH))
    assert {"read", "decode", "wait", "detect", "answer", "total"} == set(good["ms"])
    assert (bad["status"], bad["error"]) == (400, answer.json()["error"])
    counted = endpoint.get("/metrics").text
    statuses = [line["status"] for line in endpoint.log()]
    assert (
        f'frcnn_requests_total{{model_version="{good["model_version"]}",status="200"}} {statuses.count(200)}.0'
        in counted
    )
    assert "frcnn_worker_healthy 1.0" in counted


def test_answers_do_not_depend_on_what_runs_beside(
    endpoint: Endpoint, detector: Detector, healthy: Callable[[], bool]
) -> None:
    """Forty requests of three canvases at a time: every one has its own answer, and the pings between are answered."""
    pictures = [picture(90, 60, 1), picture(60, 90, 2), picture(64, 64, 3)]
    expected = detector.detect(pictures)
    jobs = [number % 3 for number in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(lambda job: endpoint.post(encode(pictures[job])), jobs)
        assert all(healthy() for _ in range(5))
        for job, answer in zip(jobs, answers, strict=True):
            assert_same(answer.json(), expected[job], (pictures[job].shape[1], pictures[job].shape[0]))
    assert max(line.get("batch", 0) for line in endpoint.log()) == 2  # some did share a batch


@pytest.fixture
def healthy(endpoint: Endpoint) -> Callable[[], bool]:
    return lambda: endpoint.get("/ping").status_code == 200
