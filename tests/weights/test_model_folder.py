"""The model folder: round trip, and an error message for each kind of damage."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.weights.model_folder import load_weights, read_model_folder, tensors_of, write_model_folder


def small_model(classes: int = 2) -> keras.Model:
    """Two layers with the names of the detector's."""
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(classes, name="class_logits")(keras.layers.Dense(3, name="fc1")(inputs))
    )
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
    (folder / "SHA256SUMS").unlink()
    safetensors.numpy.save_file(tensors_of(first), folder / "weights.safetensors")
    assert load_weights(second, saved.weights) == []
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml",
        "labels.json",
        "metrics.json",
        "weights.safetensors",
    ]


@contextlib.contextmanager
def full_disk(at: int) -> Iterator[None]:
    """Limit the size of files written by this process to ``at`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# All files but the weights fit into 50,000 bytes; the weights fit into 400,000, the metrics, written last, do not.
@pytest.mark.parametrize(("at", "metrics"), [(0, {}), (50_000, {}), (400_000, {"AP": "9" * 500_000})])
def test_a_full_disk_leaves_the_previous_model(folder: Path, at: int, metrics: dict[str, str]) -> None:
    model, before = small_model(20_000), {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        full_disk(at),
        pytest.raises(
            UserError, match=r"model folder .*model cannot be written \(.*[Ff]ile too large.*\); free disk space"
        ),
    ):
        write_model_folder(folder, model, Config(seed=6), ["new"], [1], metrics)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"model folder .*file/model cannot be written \(.*Not a directory"):
        write_model_folder(tmp_path / "file" / "model", small_model(), Config(), ["a", "b"], [1, 2], {})


def test_temporary_files_of_a_killed_process_are_removed(folder: Path) -> None:
    (folder / ".incomplete-123").mkdir()
    (folder / ".incomplete-123" / "weights.safetensors").write_bytes(b"half")
    write_model_folder(folder, small_model(), Config(seed=6), ["cell", "dust"], [3, 17], {})
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "config.yaml",
        "labels.json",
        "metrics.json",
        "weights.safetensors",
    ]
    assert read_model_folder(folder).config.seed == 6


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


@pytest.mark.parametrize("name", ["resnet50-0676ba61.pth", "last.pt", "model_final.pkl"])
def test_the_error_for_another_frameworks_file_names_the_import_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    command = f"'frcnn import-weights {tmp_path / name} --from torchvision --out DIR' (or --from detectron2)"
    with pytest.raises(
        UserError, match=re.escape(f"belongs to another framework; run {command}, and give weights=DIR")
    ):
        load_weights(small_model(), tmp_path / name)


def test_missing_and_unexpected_tensors_are_named(folder: Path) -> None:
    file = folder / "weights.safetensors"
    (folder / "SHA256SUMS").unlink()
    tensors = safetensors.numpy.load_file(file)
    kernel = tensors.pop("roi_head/fc1/kernel")
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(UserError, match="1 missing tensors, first 'roi_head/fc1/kernel'"):
        load_weights(small_model(), file)
    safetensors.numpy.save_file({**tensors, "roi_head/fc1/kernel": kernel, "extra": kernel}, file)
    with pytest.raises(UserError, match="1 unexpected tensors, first 'extra'"):
        load_weights(small_model(), file)


def test_the_models_predictor_is_kept_for_other_classes_only_on_request(folder: Path) -> None:
    model = small_model(classes=5)
    with pytest.raises(
        UserError, match=r"tensor 'roi_head/class_logits/kernel' of .* has shape \(3, 2\), the model's has \(3, 5\)"
    ):
        load_weights(model, folder / "weights.safetensors")
    kept = load_weights(model, folder / "weights.safetensors", new_classes=True)
    assert kept == ["roi_head/class_logits/kernel", "roi_head/class_logits/bias"]
