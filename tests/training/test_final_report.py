"""Detections that are kept for the report at the end of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from frcnn.data.coco import Index, load_index
from frcnn.data.shapes import make_shapes
from frcnn.inference import Detections
from frcnn.training.final_report import keep_detections, kept_detections


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, 10)
    return load_index(folder / "train", folder / "annotations" / "instances_train.json")


def test_they_come_back_for_the_same_model_and_data_only(index: Index, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    results = {
        record.image_id: Detections(
            random.random((n, 4), np.float32), random.random(n, np.float32), np.ones(n, np.int32), index.class_names
        )
        for n, record in enumerate(index.images)  # none in the first image
    }
    file = tmp_path / "best.npz"
    assert kept_detections(file, index, "abc") is None
    keep_detections(file, index, results, "abc", 3)
    kept = kept_detections(file, index, "abc")
    assert kept is not None
    assert kept[1] == 3
    assert list(kept[0]) == [record.image_id for record in index.images]
    for image_id, found in kept[0].items():
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(results[image_id], name))
    assert kept_detections(file, index, "other") is None
    assert kept_detections(file, replace(index, fingerprint="other"), "abc") is None
    file.write_bytes(file.read_bytes()[:100])
    assert kept_detections(file, index, "abc") is None
