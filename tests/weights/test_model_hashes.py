"""Hashes in a model folder: a changed file is reported by everyone who loads it, and sha256sum agrees."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import keras
import pytest

from frcnn.config import load_config
from frcnn.errors import UserError
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights.model_files import CONFIG, HASHES, LABELS, METRICS, WEIGHTS
from frcnn.weights.model_folder import read_model_folder, write_model_folder

TINY = "{image: {min_size: [32], max_size: 48, canvas_aspects: [1.0]}, backbone: {name: resnet18, norm: gn}, "
TINY += "fpn: {channels: 16}, roi_head: {fc_channels: 16}, ops: {kernel: reference}}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hashes")
    (folder / "tiny.yaml").write_text(TINY)
    config = load_config(folder / "tiny.yaml")
    keras.utils.set_random_seed(0)
    write_model_folder(folder / "model", build_model(2, config), config, ("a", "b"), (1, 2), {"AP": 0.5})
    return folder / "model"


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "model")
    return tmp_path / "model"


def flip_bit(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def test_sha256sum_confirms_the_hashes(model: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", HASHES], cwd=model, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name}: OK" for name in (WEIGHTS, CONFIG, LABELS, METRICS)]
    Detector.load(model)


@pytest.mark.parametrize(("name", "offset"), [(WEIGHTS, -1), (WEIGHTS, 100_000), (CONFIG, 40), (LABELS, 30)])
def test_one_flipped_bit_is_reported(model: Path, name: str, offset: int) -> None:
    flip_bit(model / name, offset)
    with pytest.raises(UserError, match=f"{name} is damaged or was changed: its SHA-256 is not the one in {HASHES}"):
        Detector.load(model)


def test_the_file_of_hashes_is_checked_itself(model: Path) -> None:
    (model / HASHES).write_bytes(b"\xff" * 80)
    with pytest.raises(UserError, match=f"{HASHES} cannot be read"):
        read_model_folder(model)
    (model / HASHES).write_text("")
    with pytest.raises(UserError, match=f"{HASHES} is damaged"):
        read_model_folder(model)


def test_a_model_without_hashes_or_without_metrics_still_loads(model: Path) -> None:
    (model / METRICS).unlink()
    Detector.load(model)
    (model / HASHES).unlink()
    with (model / CONFIG).open("a") as file:  # edited by hand
        file.write("# a comment\n")
    Detector.load(model)
