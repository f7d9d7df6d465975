"""The report as one HTML page, which loads nothing: images, style and script are inside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import yaml

from frcnn import __version__
from frcnn.atomic import write_atomically
from frcnn.config import Config
from frcnn.data.coco import Index
from frcnn.evaluation.errors import ERRORS
from frcnn.evaluation.matching import SIZES
from frcnn.inference import Detections
from frcnn.report import sections
from frcnn.report.gallery import choose_examples, render_gallery
from frcnn.report.measure import measure, to_json
from frcnn.weights.score_thresholds import ScoreThresholds

PAGE, NUMBERS = "index.html", "report.json"
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ReportInput:
    """What a report is about.

    Attributes:
        model: name of the model, such as its folder.
        split: name of the split.
        results: detections by image id.
        thresholds: the model's; None for those with the best F1 on this split.
        model_metrics: content of the model's ``metrics.json``.
        records: of the run's ``metrics.jsonl``.
        unreadable: number of images that count as blank.
        against: name and detections of a model to compare with.
        detection: how the images were detected in, in words.
    """

    model: str
    split: str
    config: Config
    index: Index
    results: Mapping[int, Detections]
    thresholds: ScoreThresholds | None
    model_metrics: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    unreadable: int = 0
    against: tuple[str, Mapping[int, Detections]] | None = None
    detection: str = "whole images"


def write_report(folder: Path, given: ReportInput, progress: Callable[[], None] = lambda: None) -> Path:
    """Write ``index.html`` and ``report.json`` into a folder; returns the page.

    Args:
        progress: called now and then, so that a watchdog can be fed from it.

    Raises:
        OSError: the folder cannot be written.
    """
    index = given.index
    measured = measure(index, given.results, given.thresholds, given.against, progress)
    examples = choose_examples(measured.matches, measured.errors)
    max_pixels = given.config.data.max_pixels
    gallery = render_gallery(examples, index, given.results, measured.minimum, max_pixels, progress)
    names = measured.matches.class_names
    goal = given.thresholds.goal if given.thresholds else "maximum F1 on this split"
    content = {
        "title": escape(f"{given.model}, {given.split}"),
        "model": escape(given.model),
        "split": escape(given.split),
        "images": f"{len(index.images):,}",
        "objects": f"{int((~measured.matches.objects.crowd).sum()):,}",
        "goal": escape(goal),
        "cards": sections.cards(measured),
        "comparison": sections.comparison(measured.comparison, measured.metrics),
        "comparison_link": '<a href="#comparison">Comparison</a>' if measured.comparison else "",
        "costs": sections.error_costs(measured),
        "class_errors": sections.class_errors(measured),
        "kinds": sections.options(ERRORS),
        "sizes_options": sections.options(SIZES),
        "object_options": sections.options(("background", *names)),
        "gallery": gallery or "<p>No errors.</p>",
        "confusion": sections.confusion(measured),
        "curves": sections.curves(measured),
        "classes": sections.classes(measured),
        "sizes": sections.sizes(measured),
        "dataset": sections.dataset(index, measured, given.unreadable),
        "training": sections.training(given.records),
        "facts": sections.facts(_facts(given)),
        "config": escape(yaml.safe_dump(given.config.model_dump(mode="json"), sort_keys=False)),
        "style": (_FOLDER / "page.css").read_text(),
        "script": (_FOLDER / "page.js").read_text(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    page = Template((_FOLDER / "page.html").read_text()).substitute(content)
    write_atomically(folder / PAGE, page)
    document = {"model": given.model, "split": given.split, "data": index.fingerprint, **to_json(measured)}
    write_atomically(folder / NUMBERS, json.dumps(document, allow_nan=False) + "\n")
    return folder / PAGE


def _facts(given: ReportInput) -> list[tuple[str, str]]:
    metrics = given.model_metrics
    pairs = [
        ("model", given.model),
        ("step", str(metrics.get("step", "unknown"))),
        ("annotations", str(given.index.source)),
        ("detection", given.detection),
        ("data fingerprint", given.index.fingerprint),
        ("fingerprint of the training data", str(metrics.get("train_data", "unknown"))),
        ("frcnn", __version__),
    ]
    versions = metrics.get("versions")
    if isinstance(versions, Mapping):
        pairs += [(f"{name} of the training", str(version)) for name, version in versions.items()]
    ap = metrics.get("AP")
    if isinstance(ap, float) and math.isfinite(ap):
        pairs.append(("AP in metrics.json", f"{ap:.4f}"))
    return pairs
