"""Which detections the client wants: query parameters, and the same parameters in SageMaker's custom attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np

from frcnn.inference import Detections
from frcnn.serving.custom_attributes import parse_attributes
from frcnn.serving.request_error import RequestError
from frcnn.weights.score_thresholds import ScoreThresholds

PARAMETERS = ("score_threshold", "max_detections", "classes")
MAX_NAMES_SHOWN = 20  # class names listed in an error message


class Selection(NamedTuple):
    """A filter of detections.

    Attributes:
        score_threshold: minimum score; None for the default of the model, or of the response format.
        max_detections: keep only the best.
        labels: classes 1..K to keep; None for all.
    """

    score_threshold: float | None = None
    max_detections: int | None = None
    labels: frozenset[int] | None = None

    def apply(self, detections: Detections, default_threshold: float | ScoreThresholds = 0.0) -> Detections:
        """The selected detections, best first."""
        selected = detections.at_least(default_threshold if self.score_threshold is None else self.score_threshold)
        if self.labels is not None:
            selected &= np.isin(detections.labels, sorted(self.labels))
        rows = np.flatnonzero(selected)[: self.max_detections]
        return replace(
            detections,
            boxes=detections.boxes[rows],
            scores=detections.scores[rows],
            labels=detections.labels[rows],
        )


def read_selection(query: Iterable[tuple[str, str]], attributes: str, class_names: Sequence[str]) -> Selection:
    """Selection from the pairs of a query string and from ``key=value,key=value``; the query takes precedence.

    An unknown key is an error in the query, but not in the attributes, which other software may use as well.

    Raises:
        RequestError: 400, unknown parameter or bad value; 422, the model has no such class.
    """
    values: dict[str, list[str]] = {}
    for key, value in parse_attributes(attributes):
        if key in PARAMETERS:
            values.setdefault(key, []).append(value)
    from_query: dict[str, list[str]] = {}
    for key, value in query:
        if key not in PARAMETERS:
            raise RequestError(400, f"unknown parameter {key[:80]!r}; expected {', '.join(PARAMETERS)}")
        from_query.setdefault(key, []).append(value)
    values |= from_query
    max_detections = _number(values, "max_detections", 0, 1_000_000, integer=True)
    return Selection(
        _number(values, "score_threshold", 0.0, 1.0),
        None if max_detections is None else int(max_detections),
        _labels(values["classes"], class_names) if "classes" in values else None,
    )


def _number(values: dict[str, list[str]], name: str, low: float, high: float, integer: bool = False) -> float | None:
    if name not in values:
        return None
    text = values[name][-1]
    try:
        number = int(text) if integer else float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        kind = "an integer" if integer else "a number"
        raise RequestError(400, f"parameter {name!r} is {text[:80]!r}; expected {kind} from {low:g} to {high:g}")
    return number


def _labels(texts: list[str], class_names: Sequence[str]) -> frozenset[int]:
    names = [name for text in texts for name in _split_names(text, class_names)]
    unknown = [name for name in names if name not in class_names]
    if unknown:
        known = ", ".join(class_names[:MAX_NAMES_SHOWN]) + (" …" if len(class_names) > MAX_NAMES_SHOWN else "")
        raise RequestError(422, f"the model has no class {unknown[0][:80]!r}; its classes are {known}")
    return frozenset(class_names.index(name) + 1 for name in names)


def _split_names(text: str, class_names: Sequence[str]) -> list[str]:
    """Class names in a list with commas. A name may contain commas, and be percent-encoded, as a header requires."""
    for whole in (text, unquote(text)):
        if whole in class_names:
            return [whole]
    names = []
    for part in text.split(","):
        candidates = (part, part.strip(), unquote(part.strip()))
        names.append(next((name for name in candidates if name in class_names), part.strip()))
    return names
