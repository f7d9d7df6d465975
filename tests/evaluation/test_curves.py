"""The plot of a run: curves where the values are, and no failure without values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from frcnn.evaluation.curves import plot_training


def colored_pixels(file: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(file).convert("RGB"), np.int32)
    return (pixels.max(axis=2) - pixels.min(axis=2) > 60).nonzero()[0]


def test_curves_follow_the_values_and_may_have_gaps(tmp_path: Path) -> None:
    losses = [
        {"record": "train", "step": step, "loss": math.exp(-step / 40), "learning_rate": 0.1} for step in range(1, 200)
    ]
    scores = [
        {"record": "evaluation", "step": step, "AP": None if step == 50 else step / 400, "AP50": 0.9}
        for step in (50, 100, 150)
    ]
    plot_training(losses + scores, tmp_path / "deep" / "curves.png")
    both = colored_pixels(tmp_path / "deep" / "curves.png")
    plot_training(losses, tmp_path / "losses.png")
    upper = colored_pixels(tmp_path / "losses.png")
    middle = Image.open(tmp_path / "losses.png").height / 2
    assert upper.size > 500
    assert (upper < middle).all()
    assert (both > middle).sum() > 200


def test_a_run_without_records_has_an_empty_plot(tmp_path: Path) -> None:
    plot_training([], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (960, 720)
