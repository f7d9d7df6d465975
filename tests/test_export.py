"""An exported model, run by a process with TensorFlow but without frcnn, against the Detector."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from frcnn.cli import main
from frcnn.config import load_config
from frcnn.data.decode import decode_image
from frcnn.data.shapes import make_shapes
from frcnn.errors import UserError
from frcnn.export import export_savedmodel
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.ops import compiled
from frcnn.weights.model_folder import write_model_folder

OPTIONS = """
    image.min_size=[96] image.max_size=160 image.canvas_aspects=[]
    backbone.name=resnet18 backbone.norm=gn fpn.channels=32 anchors.sizes=[8,16,32,64,128]
    rpn.pre_nms_test=60 rpn.post_nms_test=20 roi_head.fc_channels=32 roi_head.score_threshold=0.3
"""

# Runs a SavedModel on a folder of images, with plain TensorFlow and optionally a library of operations.
RUN_EXPORTED = """
import sys, pathlib
sys.modules["frcnn"] = None  # an import of it fails
import numpy as np, tensorflow as tf
model, images, out, *library = sys.argv[1:]
for file in library:
    tf.load_op_library(file)
signatures = tf.saved_model.load(model).signatures
files = sorted(pathlib.Path(images).iterdir())
encoded = tf.constant([file.read_bytes() for file in files])
results = {f"bytes_{k}": v for k, v in signatures["serving_default"](image_bytes=encoded).items()}
pixels = np.load(out + "/pixels.npy")
results |= {f"pixels_{k}": v for k, v in signatures["pixels"](images=tf.constant(pixels)).items()}
np.savez(out + "/found.npz", **results)
"""


def write_model(folder: Path, *overrides: str) -> Path:
    options = load_config(overrides=[*OPTIONS.split(), *overrides])
    tf.keras.utils.set_random_seed(3)
    model = build_model(3, options)
    for head in model.roi_head.stages:
        for variable in head.class_logits.trainable_variables + head.box_deltas.trainable_variables:
            variable.assign(variable * 60)  # so that scores differ
    write_model_folder(folder, model, options, ("a", "b", "c"), (1, 2, 5), {})
    return folder


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic images, wide, tall, square and tiny, as JPEG (one with an EXIF rotation) and PNG."""
    made = sorted((make_shapes(tmp_path_factory.mktemp("shapes") / "data", images=8, seed=4) / "train").rglob("*.*g"))
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate([(150, 110), (70, 200), (96, 96), (300, 120), (12, 9)]):
        Image.open(made[number]).convert("RGB").resize(size).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(made[5]).convert("RGB").resize((140, 100)).save(folder / "turned.jpg", exif=turned)
    return folder


def run_exported(exported: Path, images: Path, folder: Path, *library: Path) -> dict[str, np.ndarray]:
    command = [sys.executable, "-c", RUN_EXPORTED, *map(str, (exported, images, folder, *library))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "found.npz") as results:
        return dict(results)


def assert_same(found: dict[str, np.ndarray], signature: str, detector: Detector, images: list[np.ndarray]) -> None:
    expected = detector.detect(images)
    assert sum(len(detections.scores) for detections in expected) > len(images), "enough detections to compare"
    for row, detections in enumerate(expected):
        count = found[f"{signature}_counts"][row]
        assert count == len(detections.scores)
        for name, tolerance in (("boxes", 1e-3), ("scores", 1e-3), ("labels", 0)):
            np.testing.assert_allclose(
                found[f"{signature}_{name}"][row, :count], getattr(detections, name), atol=tolerance, rtol=0
            )
        assert not found[f"{signature}_scores"][row, count:].any()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and its export by the command line."""
    folder = tmp_path_factory.mktemp("reference")
    model = write_model(folder / "model")
    result = CliRunner().invoke(main, ["export", "--model", str(model), "--out", str(folder / "out" / "1")])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"savedmodel: {folder / 'out' / '1'}\n"
    return model, folder / "out" / "1"


def test_plain_tensorflow_gives_the_detections_of_the_detector(tmp_path, image_folder, reference):
    model, exported = reference
    images = [decode_image(file) for file in sorted(image_folder.iterdir())]
    same_size = np.stack([images[0], images[0][::-1]])
    np.save(tmp_path / "pixels.npy", same_size)
    found = run_exported(exported, image_folder, tmp_path)
    assert_same(found, "bytes", Detector.load(model), images)
    assert_same(found, "pixels", Detector.load(model), list(same_size))
    labels = json.loads((exported / "assets.extra" / "labels.json").read_text())
    assert [entry["name"] for entry in labels] == ["a", "b", "c"]


def test_bytes_that_are_not_an_image_are_an_error(reference):
    detect = tf.saved_model.load(str(reference[1])).signatures["serving_default"]
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG")
    for content in (b"", b"not an image", buffer.getvalue()[:200]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            detect(image_bytes=tf.constant([content]))
    assert detect(image_bytes=tf.constant([], tf.string))["boxes"].shape[0] == 0


@pytest.mark.skipif(compiled.active_kernels().library is None, reason="no kernels on this machine")
def test_the_library_of_the_kernels_is_exported_with_a_cascade_and_test_time_augmentation(tmp_path, image_folder):
    cascade_and_views = ("roi_head.cascade=[0.5,0.6]", "test.scales=[1,0.5]")
    model = write_model(
        tmp_path / "model", "ops.kernel=reference", "image.resize=pillow", "fpn.norm=bn", *cascade_and_views
    )
    export_savedmodel(model, tmp_path / "out", "compiled", test="flip=true")
    [library] = (tmp_path / "out" / "assets.extra").glob("*.so")
    images = [decode_image(file) for file in sorted(image_folder.iterdir())]
    np.save(tmp_path / "pixels.npy", images[0][None])
    with pytest.raises(AssertionError, match="Op type not registered 'Frcnn"):
        run_exported(tmp_path / "out", image_folder, tmp_path)
    found = run_exported(tmp_path / "out", image_folder, tmp_path, library)
    assert_same(found, "bytes", Detector.load(model, "flip=true"), images)


def test_a_folder_that_is_not_empty_is_not_touched(tmp_path):
    (tmp_path / "kept.txt").touch()
    with pytest.raises(UserError, match="is not empty; give a new or empty folder as --out"):
        export_savedmodel(tmp_path / "model", tmp_path, "reference")
    with pytest.raises(UserError, match="not a model folder"):
        export_savedmodel(tmp_path / "model", tmp_path / "out", "reference")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
