"""The model folder: round trip, and one sentence for each way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.weights.model_folder import load_weights, read_model_folder, tensors_of, write_model_folder


def small_model(classes: int = 2) -> keras.Model:
    """Two layers under the names that the detector's predictors have."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(classes, name="class_logits")(keras.layers.Dense(3, name="fc1")(inputs)))
    for variable in model.variables:
        variable._path = f"roi_head/{variable.path}"
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model", small_model(), Config(seed=5), ["cell", "dust"], [3, 17], {"AP": 0.5})
    return tmp_path / "model"


def test_round_trip(folder: Path) -> None:
    saved = read_model_folder(folder)
    assert (saved.class_names, saved.category_ids, saved.config) == (("cell", "dust"), (3, 17), Config(seed=5))
    first, second = small_model(), small_model()
    safetensors.numpy.save_file(tensors_of(first), folder / "weights.safetensors")
    assert load_weights(second, saved.weights) == []
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "labels.json", "metrics.json", "weights.safetensors"]


@pytest.mark.parametrize("name", ["weights.safetensors", "config.yaml", "labels.json"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"is not a model folder: {name} is missing"):
        read_model_folder(folder)


def test_damaged_labels(folder: Path) -> None:
    (folder / "labels.json").write_text('[{"label": 1}]')
    with pytest.raises(UserError, match=r"labels.json is damaged"):
        read_model_folder(folder)


def test_truncated_weights(folder: Path) -> None:
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read .*expected a .safetensors file"):
        load_weights(small_model(), file)


def test_missing_and_left_over_tensors_are_named(folder: Path) -> None:
    file = folder / "weights.safetensors"
    tensors = safetensors.numpy.load_file(file)
    kernel = tensors.pop("roi_head/fc1/kernel")
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(UserError, match="it lacks 1 tensors, first 'roi_head/fc1/kernel'"):
        load_weights(small_model(), file)
    safetensors.numpy.save_file({**tensors, "roi_head/fc1/kernel": kernel, "extra": kernel}, file)
    with pytest.raises(UserError, match="it has besides 1 tensors, first 'extra'"):
        load_weights(small_model(), file)


def test_other_classes_keep_the_models_own_predictor_only_when_asked(folder: Path) -> None:
    model = small_model(classes=5)
    with pytest.raises(UserError, match=r"tensor 'roi_head/class_logits/kernel' of .* has shape \(3, 2\), the model's has \(3, 5\)"):
        load_weights(model, folder / "weights.safetensors")
    kept = load_weights(model, folder / "weights.safetensors", new_classes=True)
    assert kept == ["roi_head/class_logits/kernel", "roi_head/class_logits/bias"]
