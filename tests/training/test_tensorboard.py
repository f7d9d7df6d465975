"""What Progress writes for TensorBoard, read with TensorBoard's own reader."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from frcnn.evaluation.matching import Found, Matches, Objects
from frcnn.training.progress import TENSORBOARD_FOLDER, Progress
from frcnn.training.tracking.pr_curves import OF_CLASS, OVERALL


def test_tensorboard_reads_scalars_and_images(tmp_path: Path) -> None:
    red = np.zeros((6, 8, 3), np.uint8)
    red[..., 0] = 200
    with Progress(tmp_path, 2, batch_size=4, log_every=1, stream=io.StringIO()) as progress:
        progress.step(1, {"a": 3.0}, 0.1)
        progress.evaluation(1, {"AP": 0.5, "APs": None})
        progress.images(1, "validation", lambda folder: [red, red[:3]])
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER), size_guidance={"tensors": 0}).Reload()
    tags = set(events.Tags()["tensors"])
    assert tags == {
        "train/a",
        "train/learning_rate",
        "train/images_per_second",
        "evaluation/AP",
        "validation/0",
        "validation/1",
    }
    assert tf.make_ndarray(events.Tensors("train/a")[0].tensor_proto) == 3.0
    width, height, png = tf.make_ndarray(events.Tensors("validation/1")[0].tensor_proto)
    assert (int(width), int(height)) == (8, 3)
    np.testing.assert_array_equal(tf.io.decode_png(png).numpy(), red[:3])


@pytest.fixture
def matches() -> Matches:
    """Class a: correct detections of scores 0.9 and 0.3, a wrong one of 0.6, three objects. Class b: two detections of
    score 0.2, of which one is correct, and the only object. Class c: nothing."""
    labels, correct = np.array([1, 1, 1, 2, 2]), np.array([True, False, True, True, False])
    flags, zeros, boxes = (10, 4, 5), np.zeros(5, int), np.zeros((5, 4), np.float32)
    scores = np.array([0.9, 0.6, 0.3, 0.2, 0.2], np.float32)
    own, four = np.array([1, 1, 1, 2]), np.zeros(4, int)
    return Matches(
        class_names=("a", "b", "c"),
        images=1,
        objects=Objects(four, own, four, boxes[:4], four, four.astype(bool)),
        found=Found(zeros, labels, zeros, boxes, zeros, scores),
        matched=np.broadcast_to(correct, flags),
        ignored=np.zeros(flags, bool),
        partner=np.full(5, -1),
        object_ignored=np.zeros((4, 4), bool),
    )


def test_tensorboard_reads_pr_curves(tmp_path: Path, matches: Matches) -> None:
    with Progress(tmp_path, 2, batch_size=4, stream=io.StringIO()) as progress:
        progress.pr_curves(1, matches)
        progress.pr_curves(2, matches)
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER), size_guidance={"tensors": 0}).Reload()
    curves = {name: f"{name}/pr_curves" for name in (OVERALL, f"{OF_CLASS}/a", f"{OF_CLASS}/b")}
    assert set(events.Tags()["tensors"]) == set(curves.values())  # c has no objects
    assert set(events.PluginTagToContent("pr_curves")) == set(curves.values())
    assert [event.step for event in events.Tensors(curves[OVERALL])] == [1, 2]
    values = {name: tf.make_ndarray(events.Tensors(tag)[0].tensor_proto) for name, tag in curves.items()}
    assert all(value.shape == (6, 101) for value in values.values())
    # Rows: true and false positives, true and false negatives, precision, recall; columns: scores 0, 0.01, … 1.
    for score, expected in (
        (0, [2, 1, 0, 1, 2 / 3, 2 / 3]),
        (30, [2, 1, 0, 1, 2 / 3, 2 / 3]),
        (31, [1, 1, 0, 2, 1 / 2, 1 / 3]),
        (90, [1, 0, 0, 2, 1, 1 / 3]),
        (91, [0, 0, 0, 3, 0, 0]),
    ):
        np.testing.assert_allclose(values[f"{OF_CLASS}/a"][:, score], expected, rtol=1e-6)
    np.testing.assert_allclose(values[f"{OF_CLASS}/b"][:, 20], [1, 1, 0, 0, 1 / 2, 1])
    np.testing.assert_allclose(values[OVERALL][:, 20], [3, 2, 0, 1, 3 / 5, 3 / 4], rtol=1e-6)


def test_without_the_plugin_for_pr_curves_the_other_records_are_written(
    tmp_path: Path, matches: Matches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.plugins.pr_curve.summary", None)
    printed = io.StringIO()
    with Progress(tmp_path, 2, batch_size=4, log_every=1, stream=printed) as progress:
        progress.pr_curves(1, matches)
        progress.pr_curves(1, matches)
        progress.step(1, {"a": 3.0}, 0.1)
    (warning,) = (line for line in printed.getvalue().splitlines() if "warning" in line)
    assert warning.startswith(f"warning: PR curves in {tmp_path / TENSORBOARD_FOLDER} cannot be written (")
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER), size_guidance={"tensors": 0}).Reload()
    assert "train/a" in events.Tags()["tensors"]
