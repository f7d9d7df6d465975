"""The option ``test`` of commands and of the endpoint.

A detector that also sees the mirrored image finds the mirrored boxes in the mirrored image, which one with random
weights does not do by itself.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import frcnn
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.config import load_config
from frcnn.data.shapes import make_shapes
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.serving.engine import Engine
from frcnn.serving.health import Health
from frcnn.serving.options import ServeOptions
from frcnn.serving.predictor import create_app
from frcnn.weights.model_folder import write_model_folder

OPTIONS = """
    image.min_size=[64] image.max_size=64 image.canvas_aspects=[1.0] backbone.name=resnet18 backbone.norm=gn
    fpn.channels=16 anchors.sizes=[8,16,32,64,128] rpn.pre_nms_test=100 rpn.post_nms_test=50 roi_head.fc_channels=16
    roi_head.score_threshold=0
"""
FLIP = "flip=true"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=10, seed=3)


@pytest.fixture(scope="module")
def model(shapes: Path) -> Path:
    """A model with random weights."""
    keras.utils.set_random_seed(3)
    config = load_config(overrides=[f"data.root={shapes}", *OPTIONS.split()])
    names = tuple(category["name"] for category in annotations(shapes)["categories"])
    folder = shapes.parent / "model"
    write_model_folder(folder, build_model(len(names), config), config, names, range(1, len(names) + 1), {})
    return folder


def annotations(shapes: Path) -> dict[str, Any]:
    return json.loads((shapes / "annotations" / "instances_val.json").read_text())


def is_mirrored(boxes: np.ndarray, scores: Sequence[float], others: np.ndarray, other_scores: Sequence[float]) -> bool:
    """Whether each of the boxes ``[N, 4]``, corners in an image of width 1, has its counterpart among the others."""
    assert len(boxes) > 10
    if len(boxes) != len(others):
        return False
    rows = np.column_stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3], scores])
    counterparts = np.abs(rows[:, None] - np.column_stack([others, other_scores])).max(axis=2) < 1e-3
    return bool(counterparts.any(axis=0).all() and counterparts.any(axis=1).all())


def predicted(entries: list[Mapping[str, Any]], file: Path, width: int) -> tuple[np.ndarray, list[float]]:
    """Boxes and scores of an image in the entries of ``detections.json``."""
    own = [entry for entry in entries if entry["file_name"] == str(file)]
    boxes = np.array([entry["bbox"] for entry in own])
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) / width, [e["score"] for e in own]


def test_predict_and_evaluate_detect_in_the_mirrored_image_too(model: Path, shapes: Path, tmp_path: Path) -> None:
    files = sorted((shapes / "val").iterdir())
    (tmp_path / "mirrored").mkdir()
    mirrored = tmp_path / "mirrored" / "image.png"
    with Image.open(files[0]) as image:
        width = image.width
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
        plain = Detector.load(model).detect([image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert not is_mirrored(plain[0].boxes / width, plain[0].scores, plain[1].boxes / width, plain[1].scores)
    out = tmp_path / "out"
    result = frcnn("predict", shapes / "val", tmp_path / "mirrored", "--model", model, "--out", out, "--test", FLIP)
    assert result.exit_code == 0, result.output
    entries = json.loads((out / "detections.json").read_text())
    assert is_mirrored(*predicted(entries, files[0], width), *predicted(entries, mirrored, width))

    result = frcnn("evaluate", "--model", model, "--json", tmp_path / "metrics.json", "--test", FLIP)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    ids = {str(shapes / "val" / image["file_name"]): image["id"] for image in annotations(shapes)["images"]}
    truth = COCO(shapes / "annotations" / "instances_val.json")
    found = truth.loadRes([{**e, "image_id": ids[e["file_name"]]} for e in entries if e["file_name"] in ids])
    oracle = COCOeval(truth, found, "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    assert metrics["AR100"] > 0
    assert [metrics["AP"], metrics["AR100"]] == pytest.approx([oracle.stats[0], oracle.stats[8]], abs=1e-6)


def test_the_endpoint_detects_in_the_mirrored_image_too(model: Path, tmp_path: Path) -> None:
    options, health, failures = ServeOptions(model=model, test=FLIP, max_batch=1), Health(tmp_path, 0, 1), []
    engine = Engine(options, model, health, failures.append)
    deadline = time.monotonic() + 240
    while not engine.loaded and not failures:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert failures == []
    client = create_app(options, engine, health, tmp_path).test_client()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = []
    for number, pixels in enumerate((image, image[:, ::-1])):
        file = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(file)
        with socket.socket() as connection:  # gunicorn's
            environ = {"gunicorn.socket": connection}
            answer = client.post("/invocations", data=file.read_bytes(), environ_overrides=environ).json
        found += [np.array(answer["boxes"]) / 64, answer["scores"]]
    engine.close()
    assert is_mirrored(*found)
