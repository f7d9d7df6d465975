"""Plot of a run over its steps: losses, gradient norm, learning rate and validation AP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

_NOT_LOSSES = ("record", "step", "gradient_norm", "learning_rate", "images_per_second")
_SHOWN_METRICS = ("AP", "AP50", "AP75")
_SMOOTHED_SHARE = 1 / 20  # of the records of a run: width of the window of the smoothed line
_MIN_SMOOTHED = 10  # records; a shorter history has no smoothed line
_HEIGHTS = (3, 1.5, 1, 3)  # of the panels, relative


def plot_training(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Plot a run into a PNG file: losses, gradient norm, learning rate, and AP with its best evaluation marked.

    The gradient norm has a panel of its own, with a logarithmic axis, because it is ten times the losses and more.

    Args:
        records: of ``metrics.jsonl``; values that are None leave gaps.

    Raises:
        OSError: the file cannot be written.
    """
    train = [record for record in records if record["record"] == "train"]
    evaluations = [record for record in records if record["record"] == "evaluation"]
    figure = Figure(figsize=(9, 10), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    losses, norm, rate, scores = figure.subplots(4, 1, sharex=True, height_ratios=_HEIGHTS)
    names = [name for name in (train[0] if train else {}) if name not in _NOT_LOSSES]
    _plot_noisy(losses, train, names)
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    _plot_noisy(norm, train, ["gradient_norm"])
    norm.set_ylabel("gradient norm")
    if any((value := record.get("gradient_norm")) and value > 0 for record in train):
        norm.set_yscale("log", nonpositive="mask")
        norm.yaxis.set_major_formatter(LogFormatter())  # 0.1 and 20, not powers of ten
        norm.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
    rate.plot(_steps(train), _values(train, "learning_rate"), color="black", linewidth=1)
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.set_ylim(bottom=0)
    for name in _SHOWN_METRICS:
        scores.plot(_steps(evaluations), _values(evaluations, name), label=name, marker="o", markersize=3)
    _mark_best(scores, evaluations)
    scores.set_ylabel("validation AP")
    scores.set_ylim(0, 1)
    scores.set_xlabel("steps")
    for axes in (losses, norm, rate, scores):
        axes.grid(alpha=0.3)
    for axes, shown in ((losses, train), (scores, evaluations)):
        if shown:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Centered moving mean of ``values`` ``[N]``; at both ends over what there is of the window, NaN left out.

    Args:
        window: number of values, odd.
    """
    known = np.isfinite(values)
    ones = np.ones(window)
    # "full" and cut, because "same" returns ``window`` values if that is more than there are.
    half = window // 2
    sums = np.convolve(np.where(known, values, 0.0), ones)[half : half + len(values)]
    counts = np.convolve(known.astype(float), ones)[half : half + len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0.5, sums / counts, np.nan)


def _plot_noisy(axes: Axes, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """The raw line, pale, and over it the smoothed one."""
    window = 2 * round(len(records) * _SMOOTHED_SHARE / 2) + 1
    for number, name in enumerate(names):
        values = _values(records, name)
        smooths = len(records) >= _MIN_SMOOTHED and window > 1
        axes.plot(
            _steps(records),
            values,
            color=f"C{number}",
            alpha=0.3 if smooths else 1.0,
            linewidth=1,
            label=None if smooths else name,
        )
        if smooths:
            axes.plot(_steps(records), smoothed(values, window), color=f"C{number}", linewidth=1.8, label=name)


def _mark_best(axes: Axes, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """A star at the evaluation with the highest AP; of equal ones the last, whose model is kept."""
    scores = _values(evaluations, "AP")
    if not np.isfinite(scores).any():
        return
    best = len(scores) - 1 - int(np.nanargmax(scores[::-1]))
    step, score = evaluations[best]["step"], scores[best]
    axes.plot([step], [score], marker="*", markersize=14, color="black", linestyle="", label=f"best AP {score:.3f}")
    axes.axvline(step, color="black", linestyle=":", linewidth=1, label=f"at step {step}")


def _steps(records: Sequence[Mapping[str, Any]]) -> list[int]:
    return [record["step"] for record in records]


def _values(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([math.nan if record.get(name) is None else record[name] for record in records], float)
