"""Line charts as inline SVG, which follow the page's light or dark colors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38  # margins
MAX_POINTS = 240  # of a line: more cannot be told apart
TICKS = 5


class Line(NamedTuple):
    """A line of a chart; ``style`` 1..4 selects its color in page.css."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    style: int
    dashed: bool = False


def line_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    *,
    x_limits: tuple[float, float] = (0.0, 1.0),
    y_limits: tuple[float, float] = (0.0, 1.0),
    mark: float | None = None,
) -> str:
    """A chart with its legend below, as a figure.

    Args:
        mark: position of a dashed vertical line.
    """
    x_ticks, y_ticks = _ticks(*x_limits), _ticks(*y_limits)

    def x_of(value: float) -> float:
        return LEFT + (value - x_limits[0]) / (x_limits[1] - x_limits[0]) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_limits[0]) / (y_limits[1] - y_limits[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [
        *(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(v):.1f}" y2="{y_of(v):.1f}"/>'
            for v in y_ticks
        ),
        *(f'<text class="tick end" x="{LEFT - 8}" y="{y_of(v) + 4:.1f}">{v:g}</text>' for v in y_ticks),
        *(f'<text class="tick" x="{x_of(v):.1f}" y="{HEIGHT - BOTTOM + 17}">{_short(v)}</text>' for v in x_ticks),
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}">{escape(x_label)}</text>',
    ]
    if mark is not None and x_limits[0] <= mark <= x_limits[1]:
        parts.append(
            f'<line class="mark" x1="{x_of(mark):.1f}" x2="{x_of(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    for line in lines:
        dashed = " dashed" if line.dashed else ""
        for run in _runs(line, x_of, y_of):
            parts.append(f'<polyline class="line s{line.style}{dashed}" points="{run}"/>')
    described = f"{title}: {', '.join(line.name for line in lines)} over {x_label}"
    legend = "".join(
        f'<li><span class="key s{line.style}{" dashed" if line.dashed else ""}"></span>{escape(line.name)}</li>'
        for line in lines
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{"".join(parts)}</svg>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _runs(line: Line, x_of: object, y_of: object) -> list[str]:
    """Points of each part of a line between values that are not finite, thinned out."""
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    runs = np.split(finite, np.flatnonzero(np.diff(finite) > 1) + 1) if finite.size else []
    texts = []
    for run in runs:
        kept = run[np.unique(np.linspace(0, len(run) - 1, min(len(run), MAX_POINTS)).round().astype(int))]
        points = [(x_of(x[i]), y_of(y[i])) for i in kept]  # type: ignore[operator]
        if len(points) == 1:  # a line of one point would be invisible
            points = [(points[0][0] - 2, points[0][1]), (points[0][0] + 2, points[0][1])]
        texts.append(" ".join(f"{px:.1f},{py:.1f}" for px, py in points))
    return texts


def _ticks(low: float, high: float) -> list[float]:
    """Round values between the limits."""
    raw = (high - low) / TICKS
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    return [round(step * n, 10) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
