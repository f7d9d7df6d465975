"""Plot of losses and AP over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_NOT_LOSSES = ("record", "step", "learning_rate", "images_per_second")
_SHOWN_METRICS = ("AP", "AP50", "AP75")


def plot_training(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Plot the losses (upper axes) and the AP (lower axes) over steps into a PNG file.

    Args:
        records: of ``metrics.jsonl``; values that are None leave gaps.

    Raises:
        OSError: the file cannot be written.
    """
    train = [record for record in records if record["record"] == "train"]
    evaluations = [record for record in records if record["record"] == "evaluation"]
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _plot(upper, train, [name for name in (train[0] if train else {}) if name not in _NOT_LOSSES], marker="")
    _plot(lower, evaluations, list(_SHOWN_METRICS), marker="o")
    upper.set_ylabel("loss")
    upper.set_ylim(bottom=0)
    lower.set_ylabel("validation AP")
    lower.set_ylim(0, 1)
    lower.set_xlabel("steps")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _plot(axes: Axes, records: Sequence[Mapping[str, Any]], names: Sequence[str], marker: str) -> None:
    steps = [record["step"] for record in records]
    for name in names:
        values = [record.get(name) for record in records]
        axes.plot(
            steps,
            [float("nan") if value is None else value for value in values],
            label=name,
            marker=marker,
            markersize=3,
        )
    axes.grid(alpha=0.3)
    if records:
        axes.legend(loc="best", fontsize="small")
