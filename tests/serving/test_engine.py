"""The model of a worker: loading, an image that fails, a model that fails, an inference that hangs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from serving_client import CLASSES, encode, make_image
from werkzeug.test import TestResponse

from frcnn.inference import Detections, Detector, Prepared
from frcnn.serving.custom_attributes import CUSTOM_ATTRIBUTES
from frcnn.serving.engine import Engine, weights_digest
from frcnn.serving.health import Health
from frcnn.serving.options import ServeOptions
from frcnn.serving.predictor import create_app
from frcnn.tiling import TiledDetector, Tiling
from frcnn.weights.score_thresholds import ScoreThresholds

FOREVER = float("inf")


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def engine(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    options = ServeOptions(model=served_model, request_timeout=1.0)
    failures: list[str] = []
    engine = Engine(options, served_model, Health(tmp_path_factory.mktemp("health"), 0, 1), failures.append)
    assert engine.unhealthy_reason() is not None
    wait_for(lambda: engine.loaded or failures)
    assert failures == []
    return engine


def test_loaded_engine(engine: Engine, served_model: Path, detector: Detector) -> None:
    assert engine.unhealthy_reason() is None
    assert engine.model_version == weights_digest(served_model)
    found = engine.batcher.submit(engine.detector.prepare(make_image()), FOREVER).result(60).detections
    expected = detector.detect([make_image()])[0]
    assert found.scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-5)


def send(client: FlaskClient, image: np.ndarray, query: str = "", accept: str = "application/json") -> TestResponse:
    with socket.socket() as connection:  # gunicorn's
        return client.post(
            f"/invocations{query}",
            data=encode(image),
            headers={"Accept": accept},
            environ_overrides={"gunicorn.socket": connection},
        )


def test_the_models_thresholds_are_the_default_and_the_response_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores = engine.detector.detect([make_image()])[0].scores
    middle = float(np.median(scores))
    client = create_app(ServeOptions(model=tmp_path), engine, Health(tmp_path, 0, 1), tmp_path).test_client()

    def post(query: str = "", accept: str = "application/json") -> TestResponse:
        return send(client, make_image(), query, accept)

    assert len(post().json["scores"]) == len(scores)
    assert "score_thresholds" not in post().json
    monkeypatch.setattr(engine.detector, "thresholds", ScoreThresholds(dict.fromkeys(CLASSES, middle), "maximum F1"))
    answer = post()
    assert answer.json["score_thresholds"] == dict.fromkeys(CLASSES, middle)
    assert 0 < len(answer.json["scores"]) == (scores >= np.float32(middle)).sum() < len(scores)
    styled = post(accept="application/json;prediction=1")
    assert len(styled.json["prediction"]) == len(answer.json["scores"])
    assert "score_threshold=model" in styled.headers[CUSTOM_ATTRIBUTES]
    settings = client.get("/page/settings.json").json
    assert settings["goal"] == "maximum F1"
    assert [(entry["name"], entry["score_threshold"]) for entry in settings["classes"]] == [
        (name, middle) for name in CLASSES
    ]
    assert [entry["color"] for entry in settings["classes"]] == ["#e69f00", "#56b4e9", "#009e73"]
    explicit = post("?score_threshold=0")
    assert len(explicit.json["scores"]) == len(scores)
    assert "score_thresholds" not in explicit.json
    assert "score_threshold" not in explicit.headers[CUSTOM_ATTRIBUTES]


def test_large_images_are_detected_in_tiles(
    engine: Engine, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiling = Tiling(64, 0.2)
    monkeypatch.setattr(engine, "tiling", tiling)
    image = make_image(width=150, height=64)
    options = ServeOptions(model=tmp_path, tile=64, queue_size=32)
    client = create_app(options, engine, Health(tmp_path, 0, 1), tmp_path).test_client()
    response = send(client, image)
    (expected,) = TiledDetector(detector, tiling, 1).detect(image)
    assert response.status_code == 200
    assert response.json["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    np.testing.assert_allclose(response.json["boxes"], expected.boxes, atol=2e-3)
    response = send(client, make_image(width=64, height=3000))
    assert (response.status_code, response.json["error"]) == (
        413,
        "an image of 64 x 3000 pixels has 60 parts with tile=64; expected at most queue_size, 32",
    )


def test_a_failing_image_is_not_a_failing_model(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine.detector.detect_batch
    prepared = engine.detector.prepare(make_image())

    def fails_on_this(images: Sequence[Prepared]) -> list[Detections]:
        if any(image.canvas is prepared.canvas for image in images):
            raise ArithmeticError("this one")
        return run(images)

    def fails(images: Sequence[Prepared]) -> list[Detections]:
        raise MemoryError("the device is gone")

    monkeypatch.setattr(engine.detector, "detect_batch", fails_on_this)
    with pytest.raises(ArithmeticError):
        engine.batcher.submit(prepared, FOREVER).result(60)
    assert engine.unhealthy_reason() is None
    monkeypatch.setattr(engine.detector, "detect_batch", fails)
    with pytest.raises(MemoryError):
        engine.batcher.submit(prepared, FOREVER).result(60)
    wait_for(engine.unhealthy_reason)
    assert engine.unhealthy_reason() == "the model fails even on a blank image: MemoryError"
    monkeypatch.setattr(engine.detector, "detect_batch", run)
    engine.batcher.submit(prepared, FOREVER).result(60)
    assert engine.unhealthy_reason() is None


def test_a_hanging_inference_is_unhealthy_until_it_returns(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run, released = engine.detector.detect_batch, []

    def hangs(images: Sequence[Prepared]) -> list[Detections]:
        wait_for(lambda: released)
        return run(images)

    monkeypatch.setattr(engine.detector, "detect_batch", hangs)
    waiting = engine.batcher.submit(engine.detector.prepare(make_image()), FOREVER)
    wait_for(engine.unhealthy_reason)
    assert str(engine.unhealthy_reason()).startswith("inference has been running for ")
    released.append(True)
    waiting.result(60)
    wait_for(lambda: engine.unhealthy_reason() is None)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    failures: list[str] = []
    Engine(ServeOptions(model=tmp_path), tmp_path, Health(tmp_path, 0, 1), failures.append)
    wait_for(lambda: failures)
    assert failures == [
        f"{tmp_path} is not a model folder: weights.safetensors is missing; give the folder 'model' that frcnn train "
        "wrote"
    ]


def test_health_reports_continue_after_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("frcnn.serving.engine.HEALTH_INTERVAL", 0.02)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    Engine(ServeOptions(model=tmp_path), tmp_path, Health(scratch, 0, 1), lambda _: None)
    wait_for(lambda: (scratch / "health-0.json").exists())
    scratch.rename(tmp_path / "away")
    wait_for(lambda: "the worker's health cannot be written: " in caplog.text, seconds=20)
    scratch.mkdir()
    wait_for(lambda: (scratch / "health-0.json").exists(), seconds=20)
