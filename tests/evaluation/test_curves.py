"""The plot of a run: curves where the values are, the best evaluation marked, and no failure without values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.evaluation.curves import plot_training, smoothed

LOSSES = [
    {"record": "train", "step": step, "loss": math.exp(-step / 40), "gradient_norm": 9.0, "learning_rate": 0.1}
    for step in range(1, 200)
]
SCORES = [
    {"record": "evaluation", "step": step, "AP": None if step == 50 else ap, "AP50": 0.9}
    for step, ap in ((50, 0.1), (100, 0.6), (150, 0.3))
]
# Bottom to top, shares of the height; the panels' heights are 3 : 1.5 : 1 : 3.
SCORE_PANEL, RATE_PANEL, NORM_PANEL, LOSS_PANEL = (0.05, 0.33), (0.38, 0.46), (0.5, 0.65), (0.68, 0.99)


def pixels_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), np.int32)


def colored(pixels: np.ndarray, panel: tuple[float, float]) -> int:
    """Number of pixels with a color, of the panel; without the legend, which is right of the axes."""
    height, width = pixels.shape[:2]
    part = pixels[round((1 - panel[1]) * height) : round((1 - panel[0]) * height), : round(0.8 * width)]
    return int((part.max(axis=2) - part.min(axis=2) > 60).sum())


def test_curves_follow_the_values_and_may_have_gaps(tmp_path: Path) -> None:
    plot_training(LOSSES + SCORES, tmp_path / "deep" / "curves.png")
    plot_training(LOSSES, tmp_path / "losses.png")
    plot_training([{**record, "gradient_norm": None} for record in LOSSES], tmp_path / "no_norm.png")
    both, losses, no_norm = (pixels_of(tmp_path / name) for name in ("deep/curves.png", "losses.png", "no_norm.png"))
    assert min(colored(losses, LOSS_PANEL), colored(losses, NORM_PANEL), colored(both, SCORE_PANEL)) > 200
    assert colored(losses, SCORE_PANEL) == 0
    assert colored(no_norm, NORM_PANEL) == 0
    assert colored(no_norm, LOSS_PANEL) > 200


def test_the_gradient_norm_does_not_flatten_the_losses(tmp_path: Path) -> None:
    for name, norm in (("small", 1.0), ("large", 1000.0)):
        plot_training([{**record, "gradient_norm": norm} for record in LOSSES], tmp_path / f"{name}.png")
    small, large = (colored(pixels_of(tmp_path / f"{name}.png"), LOSS_PANEL) for name in ("small", "large"))
    assert small == pytest.approx(large, rel=0.1)


def test_the_best_evaluation_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: drawn.append(figure))
    plot_training(LOSSES + SCORES + [{"record": "evaluation", "step": 180, "AP": 0.6}], tmp_path / "curves.png")
    (figure,) = drawn
    scores = figure.axes[3]
    (star,) = (line for line in scores.lines if line.get_marker() == "*")
    # Of two equal ones the later, which the model folder holds.
    assert (star.get_xdata().tolist(), star.get_ydata().tolist()) == ([180], [0.6])
    assert [text.get_text() for text in scores.get_legend().get_texts()][-2:] == ["best AP 0.600", "at step 180"]


def test_a_run_without_records_has_an_empty_plot(tmp_path: Path) -> None:
    plot_training([], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1080, 1200)


@pytest.mark.parametrize("window", [1, 3, 7, 25])
def test_smoothing_is_the_mean_of_the_known_values_around(window: int) -> None:
    values = np.random.default_rng(0).normal(size=12)
    values[[0, 5, 6]] = np.nan
    half = window // 2
    expected = [
        np.mean(known) if (known := [v for v in values[max(i - half, 0) : i + half + 1] if v == v]) else math.nan
        for i in range(len(values))
    ]
    np.testing.assert_allclose(smoothed(values, window), expected, atol=1e-12)
