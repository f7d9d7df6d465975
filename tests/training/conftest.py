"""A training run small enough for tests: shapes, a narrow detector, a few steps."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from frcnn.config import Config, load_config
from frcnn.data.shapes import make_shapes
from frcnn.modeling.resnet import DEPTHS
from frcnn.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parent))  # for runs: tests are not a package


# One block a stage instead of two. The loop does not depend on the depth, and most of a test's time is the tracing of
# its training step.
SHALLOW = {"resnet18": ((1, 1, 1, 1), False)}


@pytest.fixture(scope="module", autouse=True)
def shallow_backbone() -> Iterator[None]:
    with patch.dict(DEPTHS, SHALLOW):
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=30, seed=0)


@pytest.fixture(scope="session")
def train_split(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset without its validation split, for runs whose evaluation proves nothing."""
    folder = shutil.copytree(shapes, tmp_path_factory.mktemp("train_split") / "shapes")
    shutil.rmtree(folder / "val")
    (folder / "annotations" / "instances_val.json").unlink()
    return folder


@pytest.fixture(scope="session")
def tiny_config(shapes: Path) -> Callable[..., Config]:
    """``tiny_config(output, *overrides)``: 24 training images on one canvas, 6 steps an epoch, 12 steps."""

    def make(output: Path, *overrides: str) -> Config:
        options = """
            image.min_size=[64] image.max_size=64 image.canvas_aspects=[1.0]
            backbone.name=resnet18 backbone.norm=gn fpn.channels=32 anchors.sizes=[8,16,32,64,128]
            rpn.pre_nms_train=60 rpn.post_nms_train=30 rpn.pre_nms_test=60 rpn.post_nms_test=20
            roi_head.samples=16 roi_head.fc_channels=32
            optimizer.warmup_steps=4 optimizer.base_batch_size=4 optimizer.ema=0.9 optimizer.schedule=cosine
            training.batch_size=4 training.epochs=2 training.log_every=1 training.evaluate_every=1
        """
        return load_config(overrides=[f"data.root={shapes}", f"output={output}", *options.split(), *overrides])

    return make


@pytest.fixture(scope="session")
def unbroken(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A complete run of 12 steps; do not change its folder."""
    with patch.dict(DEPTHS, SHALLOW):  # fixtures of the session are set up before those of a module
        trainer = Trainer(tiny_config(tmp_path_factory.mktemp("unbroken")))
        trainer.run()
    return trainer
