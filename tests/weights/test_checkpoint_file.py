"""Reading tensors by name from every file format, and reporting the other entries."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from frcnn.errors import UserError
from frcnn.weights.checkpoint_file import read_checkpoint

WEIGHTS = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(2, np.float32)}


def test_safetensors(tmp_path: Path) -> None:
    safetensors.numpy.save_file(WEIGHTS, tmp_path / "w.safetensors")
    found = read_checkpoint(tmp_path / "w.safetensors")
    assert found.tensors.keys() == WEIGHTS.keys()
    assert found.others == {}
    (tmp_path / "w.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"expected a \.safetensors file"):
        read_checkpoint(tmp_path / "w.safetensors")


@pytest.mark.parametrize("key", ["model", "state_dict", "blobs"])
def test_weights_in_a_training_checkpoint_and_its_other_entries(tmp_path: Path, key: str) -> None:
    tree = {
        key: {**WEIGHTS, "note": "hello"},
        "__author__": "Detectron2 Model Zoo",
        "iteration": 9,
        "optimizer": {"a": 1, "b": 2},
    }
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(tree))
    found = read_checkpoint(tmp_path / "c.pkl")
    assert found.tensors.keys() == WEIGHTS.keys()
    assert found.others == {
        "__author__": "'Detectron2 Model Zoo'",
        "iteration": "9",
        "optimizer": "2 entries",
        "note": "'hello'",
    }


def test_a_bare_state_dict(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(pickle.dumps(WEIGHTS))
    assert read_checkpoint(tmp_path / "c.pth").tensors.keys() == WEIGHTS.keys()


def test_pytorchs_training_checkpoint(golden: Path) -> None:
    found = read_checkpoint(golden / "archive.pth")
    assert len(found.tensors) == 8
    assert found.others == {"epoch": "12", "args": "an object", "optimizer": "1 entries"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("no.pth", None, r"no\.pth is not a file; give a checkpoint \(\.pth, \.pt, \.pkl, \.safetensors\)"),
        ("x.h5", b"", r"x\.h5 ends with '\.h5'; expected one of"),
        ("list.pkl", pickle.dumps([1]), "holds a list; expected tensors by name"),
        ("empty.pkl", pickle.dumps({"epoch": 3}), "holds no tensors by name"),
    ],
)
def test_files_that_are_not_checkpoints(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(tmp_path / name)
