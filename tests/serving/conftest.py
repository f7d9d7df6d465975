"""A tiny untrained model, and the endpoint that most tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest

from frcnn.config import load_config
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights.model_folder import write_model_folder

sys.path.insert(0, str(Path(__file__).parent))  # serving_client: test modules are no package
from serving_client import CLASSES, NGINX, Endpoint

# Two canvases besides the square one; every box is reported, so that an untrained model detects something in any image.
TINY = """
image: {min_size: [64], max_size: 96, canvas_aspects: [1.0]}
backbone: {name: resnet18, norm: gn}
fpn: {channels: 16}
anchors: {sizes: [16, 32, 64, 128, 256]}
rpn: {pre_nms_test: 30, post_nms_test: 10}
roi_head: {fc_channels: 16, score_threshold: 0.0}
"""


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    (folder / "tiny.yaml").write_text(TINY)
    config = load_config(folder / "tiny.yaml")
    keras.utils.set_random_seed(3)
    write_model_folder(folder / "model", build_model(len(CLASSES), config), config, CLASSES, range(1, 4), {})
    return folder / "model"


@pytest.fixture(scope="session")
def detector(served_model: Path) -> Detector:
    """The same model in this process: the reference for the responses."""
    return Detector.load(served_model)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Endpoint]]:
    """Start endpoints; those that a test left running are stopped at the end."""
    endpoints: list[Endpoint] = []

    def start(model: Path, *flags: str) -> Endpoint:
        endpoints.append(Endpoint(model, tmp_path_factory.mktemp("endpoint"), *flags))
        return endpoints[-1]

    yield start
    for endpoint in endpoints:
        if endpoint.process.poll() is None:
            endpoint.stop()


@pytest.fixture(scope="session")
def endpoint(served_model: Path, start: Callable[..., Endpoint]) -> Endpoint:
    """The endpoint shared by most tests, with low limits; without nginx if it is not installed."""
    limits = "--max-pixels 1000000 --max-images 8 --max-body-mb 30 --max-batch 2 --variant blue"
    return start(served_model, *limits.split(), *([] if NGINX else ["--no-nginx"])).wait_until_healthy()
