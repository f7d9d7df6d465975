"""Jobs in folders in place of ``/opt/ml``. Makes ``tiny_job`` importable, since the tests are not a package."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frcnn.container.job import scratch_folder
from frcnn.data.shapes import make_shapes

sys.path.insert(0, str(Path(__file__).parent))
from tiny_job import TINY, Container


@pytest.fixture(scope="session")
def shapes_channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=30, seed=0)


@pytest.fixture(scope="module")
def finished_job(tmp_path_factory: pytest.TempPathFactory, shapes_channel: Path) -> Iterator[Container]:
    """The container of a job of two epochs that ended by itself; do not change its folder."""
    with containers(tmp_path_factory.mktemp("finished"), shapes_channel) as make:
        container = make({"training.epochs": "2"})
        container.start()
        assert container.wait() == 0, container.log
        yield container


@pytest.fixture
def make_container(tmp_path: Path, shapes_channel: Path) -> Iterator[Callable[..., Container]]:
    """``make_container(hyperparameters, variables)``: a channel of 24 training images, 6 steps per epoch."""
    with containers(tmp_path, shapes_channel) as make:
        yield make


@contextlib.contextmanager
def containers(parent: Path, shapes_channel: Path) -> Iterator[Callable[..., Container]]:
    """Makes containers in a folder, and ends those that still run."""
    made: list[Container] = []

    def make(hyperparameters: dict[str, str] | None = None, variables: dict[str, str] | None = None) -> Container:
        base = parent / f"ml{len(made)}"
        config = base / "input" / "config"
        for folder in (config, base / "input" / "data", base / "model", base / "output" / "data", base / "checkpoints"):
            folder.mkdir(parents=True)
        (base / "input" / "data" / "training").symlink_to(shapes_channel)
        host = socket.gethostname()
        contents = {
            "hyperparameters": {**TINY, **(hyperparameters or {})},
            "inputdataconfig": {"training": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}},
            "resourceconfig": {"current_host": host, "hosts": [host], "network_interface_name": "ethwe"},
        }
        for name, content in contents.items():
            (config / f"{name}.json").write_text(json.dumps(content))
        made.append(Container(base, variables or {}))
        return made[-1]

    yield make
    for container in made:
        if container.process and container.process.poll() is None:
            container.process.kill()
            container.process.wait()
        shutil.rmtree(scratch_folder(container.base), ignore_errors=True)
