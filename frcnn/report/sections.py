"""The sections of the report's page, as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from frcnn.data.coco import Index
from frcnn.evaluation.errors import ERRORS
from frcnn.evaluation.matching import AREA_RANGES, SIZES
from frcnn.report.charts import Line, line_chart
from frcnn.report.measure import Comparison, Curves, Estimate, Measured

MEANINGS = {
    "AP": "average precision over IoU 0.50 to 0.95",
    "AP50": "AP at IoU 0.5: objects are found",
    "AP75": "AP at IoU 0.75: boxes are accurate",
    "APs": "AP of objects up to 32² square pixels",
    "APm": "AP of objects up to 96² square pixels",
    "APl": "AP of larger objects",
    "AR100": "recall of all detections, over IoU 0.50 to 0.95",
    "precision": "correct ones among the detections above the score thresholds, at IoU 0.5",
    "recall": "objects that are found by detections above the thresholds, at IoU 0.5",
}
CARDS = ("AP", "AP50", "AP75", "AR100")
SIZE_METRICS = {"small": "APs", "medium": "APm", "large": "APl"}
MAX_CONFUSION = 40  # classes of a confusion matrix that is still readable: the most frequent ones


def cards(measured: Measured) -> str:
    """The headline numbers with their intervals."""
    parts = [
        _card(name, MEANINGS[name], _number(value.value), f"95 %: {_range(value)}") for name, value in _chosen(measured)
    ]
    if measured.overall.point:
        for name, value in measured.at_thresholds.items():
            parts.append(_card(name.title(), MEANINGS[name], _number(value.value), f"95 %: {_range(value)}"))
    return "".join(parts)


def comparison(found: Comparison | None, metrics: Mapping[str, Estimate]) -> str:
    """The table of two models; empty without a second one."""
    if found is None:
        return ""
    rows = []
    for name, difference in found.differences.items():
        if math.isnan(difference.value):
            continue
        verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "no clear difference"
        style = {"better": "good", "worse": "bad"}.get(verdict, "")
        signed = [f"{number:+.3f}" for number in difference]
        rows.append(
            _row(name, _number(metrics[name].value), _number(found.values[name].value), signed[0])
            + f'<td class="number">{signed[1]} to {signed[2]}</td><td class="number {style}">{verdict}</td></tr>'
        )
    head = ("metric", "this model", "other model", "difference", "95 % interval", "verdict")
    return (
        '<section id="comparison"><h2>Comparison</h2>'
        f"<p>The other model is <code>{escape(found.name)}</code>, on the same images. The interval is that of a "
        "paired bootstrap: both models are measured on the same resampled images, so that images which are hard for "
        "both do not hide a difference.</p>" + _table(head, rows) + "</section>"
    )


def error_costs(measured: Measured) -> str:
    """Bars of what each kind of error costs, and their numbers by class and size."""
    costs = measured.costs
    largest = max(np.nanmax(costs.cost, initial=0.0), 1e-9)
    rows = []
    for kind, (name, meaning) in enumerate(ERRORS.items()):
        cost = costs.cost[kind]
        width = 0.0 if math.isnan(cost) else max(100 * cost / largest, 0.0)
        sizes = "".join(f'<td class="number">{_number(costs.size_cost[kind, size])}</td>' for size in range(len(SIZES)))
        rows.append(
            f'<tr><th scope="row"><button type="button" class="link" data-filter-kind="{name}">{name}</button>'
            f'<span class="note">{meaning}</span></th><td class="number">{costs.counts[kind].sum():,}</td>'
            f'<td class="number">{_number(cost)}</td><td class="bars"><span class="bar k{kind}" '
            f'style="width:{width:.1f}%"></span></td>{sizes}</tr>'
        )
    head = ("error", "number", "AP50 cost", "", *(f"{size} objects" for size in SIZES))
    return _table(head, rows)


def class_errors(measured: Measured) -> str:
    """AP50 that each kind of error costs each class."""
    costs = measured.costs
    rows = []
    for k, name in enumerate(measured.matches.class_names):
        cells = []
        for kind in range(len(ERRORS)):
            number, cost = costs.counts[kind, k].sum(), costs.class_cost[kind, k]
            cells.append(f'<td class="number">{_number(cost)}<span class="note">{number:,}</span></td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return _table(("class", *ERRORS), rows)


def confusion(measured: Measured) -> str:
    """The confusion matrix, whose cells filter the examples."""
    matrix, names = measured.confusion, ("background", *measured.matches.class_names)
    shown, note = np.arange(1, len(names)), ""
    if len(shown) > MAX_CONFUSION:
        shown = np.sort(shown[np.argsort(-matrix[1:].sum(axis=1), kind="stable")[:MAX_CONFUSION]])
        note = f"<p>The {MAX_CONFUSION} classes with the most objects; report.json has all.</p>"
    order = [*shown.tolist(), 0]
    rows = []
    for k in order:
        total = max(int(matrix[k].sum()), 1)
        cells = []
        for column in order:
            number, share = int(matrix[k, column]), matrix[k, column] / total
            if k == column == 0:
                cells.append("<td></td>")
                continue
            kind = "right" if k == column else "wrong"
            style = f'style="--share:{100 * share:.0f}%"'
            words = f"{number} {names[k]} detected as {names[column]}" if column else f"{number} {names[k]} not found"
            if k == 0:
                words = f"{number} detections of {names[column]} without an object"
            content = (
                f'<button type="button" data-filter-object="{escape(names[k])}" '
                f'data-filter-detected="{escape(names[column])}" '
                f'aria-label="{escape(words)}; show examples">{number:,}</button>'
                if number and kind == "wrong"
                else f"{number:,}"
            )
            cells.append(f'<td class="cell {kind}" {style} title="{escape(words)}">{content}</td>')
        rows.append(f'<tr><th scope="row">{escape(names[k])}</th>{"".join(cells)}</tr>')
    return note + _table(("object ↓ detected as →", *(names[k] for k in order)), rows, "matrix")


def curves(measured: Measured) -> str:
    """Charts of all classes and, after a choice, of each class."""
    minimum = dict(zip(measured.matches.class_names, measured.minimum.tolist(), strict=True))
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in measured.classes)
    groups = [_class_charts("all classes", measured.overall, None, hidden=False)]
    groups += [_class_charts(name, entry, minimum[name], hidden=True) for name, entry in measured.classes.items()]
    return (
        '<p class="controls"><label>Class <select id="curve-class"><option value="all classes">all classes</option>'
        f"{options}</select></label></p>{''.join(groups)}"
    )


def _class_charts(name: str, entry: Curves, minimum: float | None, *, hidden: bool) -> str:
    score, charts = entry.score, []
    if len(score.score) and score.objects:
        lines = [
            Line("precision", score.score, score.precision, 1),
            Line("recall", score.score, score.recall, 2),
            Line("F1", score.score, score.f1, 3, dashed=True),
        ]
        charts.append(line_chart(lines, f"Precision, recall and F1, {name}", "minimum score", mark=minimum))
    recalls = np.linspace(0, 1, 101)
    lines = [Line(iou, recalls, values, style) for style, (iou, values) in enumerate(entry.recall.items(), start=1)]
    if lines:
        charts.append(line_chart(lines, f"Precision over recall, {name}", "recall"))
    content = "".join(charts) or "<p>No objects or no detections of this class.</p>"
    return f'<div class="charts" data-curves="{escape(name)}"{" hidden" if hidden else ""}>{content}</div>'


def classes(measured: Measured) -> str:
    """One row per class, sortable."""
    objects = measured.matches.objects
    rows = []
    for k, (name, ap) in enumerate(measured.class_ap.items()):
        own = objects.image[(objects.label == k + 1) & ~objects.crowd]
        ap50 = measured.classes[name].recall.get("IoU 0.5")
        point = measured.classes[name].point
        values: list[float] = [point.precision, point.recall, point.f1] if point else [math.nan] * 3
        errors = int(measured.costs.counts[:, k].sum())
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>{_cell(len(own))}{_cell(len(np.unique(own)))}'
            f""
            f'<td class="number" data-value="{_sortable(ap.value)}">{_number(ap.value)}'
            f'<span class="note">{_range(ap)}</span></td>'
            f"{_cell(math.nan if ap50 is None else float(ap50.mean()))}{_cell(measured.minimum[k])}"
            f"{''.join(_cell(value) for value in values)}{_cell(errors)}</tr>"
        )
    head = ("class", "objects", "images", "AP", "AP50", "threshold", "precision", "recall", "F1", "errors")
    return _table(head, rows, "sortable")


def sizes(measured: Measured) -> str:
    """AP, objects and errors by object size."""
    rows = []
    for number, size in enumerate(SIZES):
        counted = ~measured.matches.object_ignored[list(AREA_RANGES).index(size)]
        low, high = AREA_RANGES[size]
        limits = f"{low**0.5:.0f}² to {high**0.5:.0f}²" if high < 1e9 else f"from {low**0.5:.0f}²"
        ap = measured.metrics[SIZE_METRICS[size]]
        rows.append(
            f'<tr><th scope="row">{size}<span class="note">{limits} square pixels</span></th>'
            f"{_cell(int(counted.sum()))}"
            f'<td class="number">{_number(ap.value)}<span class="note">{_range(ap)}</span></td>'
            + "".join(_cell(int(measured.costs.counts[kind, :, number].sum())) for kind in range(len(ERRORS)))
            + "</tr>"
        )
    return _table(("size", "objects", "AP", *ERRORS), rows)


def dataset(index: Index, measured: Measured, unreadable: int) -> str:
    """What was read, and how large the objects are."""
    objects = measured.matches.objects
    sides = np.sqrt(objects.area[~objects.crowd])
    facts = list(index.summary.lines())
    if unreadable:
        facts.append(f"{unreadable} images unreadable and counted as blank")
    per_image = np.bincount(objects.image[~objects.crowd], minlength=max(measured.matches.images, 1))
    facts.append(f"objects per image: median {np.median(per_image):g}, at most {per_image.max(initial=0)}")
    if len(sides):
        low, middle, high = np.quantile(sides, [0.1, 0.5, 0.9])
        facts.append(
            f"square root of the object area: median {middle:.0f} pixels, 80 % between {low:.0f} and {high:.0f}"
        )
    return f"<ul>{''.join(f'<li>{escape(fact.strip())}</li>' for fact in facts)}</ul>"


def training(records: Sequence[Mapping[str, Any]]) -> str:
    """Loss and validation AP over the steps; a sentence if there are no records."""
    trained = [record for record in records if record["record"] == "train" and record.get("loss") is not None]
    evaluated = [record for record in records if record["record"] == "evaluation" and record.get("AP") is not None]
    charts = []
    steps = [record["step"] for record in (*trained, *evaluated)]
    limits = (0.0, float(max(steps, default=1) or 1))
    if trained:
        losses = [record["loss"] for record in trained]
        top = float(np.quantile(losses, 0.98)) * 1.1 or 1.0
        values = [min(loss, top) for loss in losses]
        line = Line("loss", [record["step"] for record in trained], values, 1)
        charts.append(line_chart([line], "Training loss", "steps", x_limits=limits, y_limits=(0.0, top)))
    if evaluated:
        lines = [
            Line(name, [r["step"] for r in evaluated], [r.get(name) or 0.0 for r in evaluated], style)
            for style, name in enumerate(("AP", "AP50", "AP75"), start=1)
        ]
        charts.append(line_chart(lines, "Validation AP", "steps", x_limits=limits))
    if not charts:
        return "<p>No metrics.jsonl of the run was found beside the model folder.</p>"
    return f'<div class="charts">{"".join(charts)}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in pairs)}</dl>"


def options(values: Iterable[str]) -> str:
    """Options of a select element."""
    return "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)


def _chosen(measured: Measured) -> list[tuple[str, Estimate]]:
    return [(name, measured.metrics[name]) for name in CARDS]


def _card(name: str, meaning: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><h3>{name}</h3><p class="value">{value}</p><p class="note">{note}</p>'
        f'<p class="note meaning">{escape(meaning)}</p></div>'
    )


def _row(*cells: str) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{escape(first)}</th>' + "".join(f'<td class="number">{cell}</td>' for cell in others)


def _table(head: Sequence[str], rows: Sequence[str], style: str = "") -> str:
    """A table that scrolls sideways by itself on narrow screens."""
    headings = [
        f'<button type="button">{escape(cell)}</button>' if style == "sortable" else escape(cell) for cell in head
    ]
    cells = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return (
        f'<div class="scroll" tabindex="0"><table class="{style}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: float) -> str:
    shown = f"{value:,}" if isinstance(value, int) else _number(float(value))
    return f'<td class="number" data-value="{_sortable(float(value))}">{shown}</td>'


def _sortable(value: float) -> str:
    return "-1" if math.isnan(value) else f"{value:.6g}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _range(value: Estimate) -> str:
    return "no object" if math.isnan(value.low) else f"{value.low:.3f} to {value.high:.3f}"
