"""Which of the detections a caller wants: the query's parameters, and the same in SageMaker's custom attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from frcnn.inference import Detections
from frcnn.serving.request_error import RequestError

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
PARAMETERS = ("score_threshold", "max_detections", "classes")


class Selection(NamedTuple):
    """Attributes:
    score_threshold: least score; None leaves it to the answer: all, or those worth drawing.
    max_detections: how many of the best.
    labels: classes, 1..K; None is all.
    """

    score_threshold: float | None = None
    max_detections: int | None = None
    labels: frozenset[int] | None = None

    def of(self, detections: Detections, default_threshold: float = 0.0) -> Detections:
        """The wanted detections, best first."""
        wanted = detections.scores >= (default_threshold if self.score_threshold is None else self.score_threshold)
        if self.labels is not None:
            wanted &= np.isin(detections.labels, sorted(self.labels))
        rows = np.flatnonzero(wanted)[: self.max_detections]
        return Detections(detections.boxes[rows], detections.scores[rows], detections.labels[rows])


def read_selection(query: Iterable[tuple[str, str]], attributes: str, class_names: Sequence[str]) -> Selection:
    """Selection of a query string's pairs and of ``key=value,key=value``; the query has the last word.

    A query may name our parameters alone, so that a misspelt one is noticed. The attributes may hold others' too.

    Raises:
        RequestError: 400, a parameter is unknown or its value is none; 422, the model has no such class.
    """
    values: dict[str, list[str]] = {}
    for key, value in _pairs_of(attributes):
        if key in PARAMETERS:
            values.setdefault(key, []).append(value)
    from_query: dict[str, list[str]] = {}
    for key, value in query:
        if key not in PARAMETERS:
            raise RequestError(400, f"parameter {key[:80]!r} is not known; expected {', '.join(PARAMETERS)}")
        from_query.setdefault(key, []).append(value)
    values |= from_query
    return Selection(
        _number(values, "score_threshold", 0.0, 1.0),
        None if (most := _number(values, "max_detections", 0, 1_000_000, whole=True)) is None else int(most),
        _labels(values["classes"], class_names) if "classes" in values else None,
    )


def _pairs_of(attributes: str) -> list[tuple[str, str]]:
    """Pairs of the header; a piece without "=" belongs to the value before it, so that ``classes=a,b`` is one pair."""
    pairs: list[tuple[str, str]] = []
    for piece in attributes.split(","):
        key, equals, value = piece.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        elif pairs and piece.strip():
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{piece.strip()}")
    return pairs


def _number(values: dict[str, list[str]], name: str, low: float, high: float, whole: bool = False) -> float | None:
    if name not in values:
        return None
    text = values[name][-1]
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        kind = "a whole number" if whole else "a number"
        raise RequestError(400, f"parameter {name!r} is {text[:80]!r}; expected {kind} from {low:g} to {high:g}")
    return number


def _labels(texts: list[str], class_names: Sequence[str]) -> frozenset[int]:
    # A name as it stands comes first: it may have a comma itself.
    names = [name for text in texts for name in ([text] if text in class_names else text.split(","))]
    unknown = [name for name in names if name not in class_names]
    if unknown:
        known = ", ".join(class_names[:20]) + (" …" if len(class_names) > 20 else "")
        raise RequestError(422, f"the model has no class {unknown[0][:80]!r}; it has {known}")
    return frozenset(class_names.index(name) + 1 for name in names)
