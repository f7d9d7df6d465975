"""Which detections the client wants: query parameters, and the same parameters in SageMaker's custom attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from frcnn.inference import Detections
from frcnn.serving.request_error import RequestError

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
PARAMETERS = ("score_threshold", "max_detections", "classes")
MAX_NAMES_SHOWN = 20  # class names listed in an error message


class Selection(NamedTuple):
    """A filter of detections.

    Attributes:
        score_threshold: minimum score; None for the default of the response format.
        max_detections: keep only the best.
        labels: classes 1..K to keep; None for all.
    """

    score_threshold: float | None = None
    max_detections: int | None = None
    labels: frozenset[int] | None = None

    def apply(self, detections: Detections, default_threshold: float = 0.0) -> Detections:
        """The selected detections, best first."""
        selected = detections.scores >= (default_threshold if self.score_threshold is None else self.score_threshold)
        if self.labels is not None:
            selected &= np.isin(detections.labels, sorted(self.labels))
        rows = np.flatnonzero(selected)[: self.max_detections]
        return Detections(detections.boxes[rows], detections.scores[rows], detections.labels[rows])


def read_selection(query: Iterable[tuple[str, str]], attributes: str, class_names: Sequence[str]) -> Selection:
    """Selection from the pairs of a query string and from ``key=value,key=value``; the query takes precedence.

    An unknown key is an error in the query, but not in the attributes, which other software may use as well.

    Raises:
        RequestError: 400, unknown parameter or bad value; 422, the model has no such class.
    """
    values: dict[str, list[str]] = {}
    for key, value in _parse_attributes(attributes):
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


def _parse_attributes(attributes: str) -> list[tuple[str, str]]:
    """Pairs of the header; a part without "=" continues the value before it, so that ``classes=a,b`` is one pair."""
    pairs: list[tuple[str, str]] = []
    for part in attributes.split(","):
        key, equals, value = part.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        elif pairs and part.strip():
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part.strip()}")
    return pairs


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
    # Try the whole text first: a class name may contain a comma.
    names = [name for text in texts for name in ([text] if text in class_names else text.split(","))]
    unknown = [name for name in names if name not in class_names]
    if unknown:
        known = ", ".join(class_names[:MAX_NAMES_SHOWN]) + (" …" if len(class_names) > MAX_NAMES_SHOWN else "")
        raise RequestError(422, f"the model has no class {unknown[0][:80]!r}; its classes are {known}")
    return frozenset(class_names.index(name) + 1 for name in names)
