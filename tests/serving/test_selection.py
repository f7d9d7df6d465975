"""Parameters in the query and in the custom attributes, and the detections they select."""

from __future__ import annotations

import numpy as np
import pytest

from frcnn.inference import Detections
from frcnn.serving.request_error import RequestError
from frcnn.serving.selection import Selection, read_selection

NAMES = ("cell", "dust, fine", "hair", "猫", "100%")
FOUND = Detections(
    np.arange(16, dtype=np.float32).reshape(4, 4),
    np.array([0.9, 0.8, 0.5, 0.1], np.float32),
    np.array([1, 2, 1, 3], np.int32),
)


@pytest.mark.parametrize(
    ("query", "attributes", "expected"),
    [
        ([], "", Selection()),
        ([], "score_threshold=0.5", Selection(0.5)),
        ([], " score_threshold = 0.5 , max_detections=3,other=7,alone", Selection(0.5, 3)),
        ([], "classes=cell,hair,max_detections=1", Selection(None, 1, frozenset({1, 3}))),
        ([], "alone,classes=hair", Selection(labels=frozenset({3}))),
        ([("classes", "cell,hair")], "", Selection(labels=frozenset({1, 3}))),
        ([("classes", "dust, fine"), ("classes", "hair")], "", Selection(labels=frozenset({2, 3}))),
        ([("classes", "cell, hair")], "", Selection(labels=frozenset({1, 3}))),
        ([], "classes=cell, hair", Selection(labels=frozenset({1, 3}))),
        ([], "classes=dust, fine", Selection(labels=frozenset({2}))),
        ([], "classes=%E7%8C%AB,cell", Selection(labels=frozenset({1, 4}))),
        ([("classes", "100%")], "", Selection(labels=frozenset({5}))),
        ([("score_threshold", "1e-1")], "score_threshold=0.5,max_detections=2", Selection(0.1, 2)),
        ([("score_threshold", "0.2"), ("score_threshold", "0.3")], "", Selection(0.3)),
    ],
)
def test_parameters(query: list[tuple[str, str]], attributes: str, expected: Selection) -> None:
    assert read_selection(query, attributes, NAMES) == expected


@pytest.mark.parametrize(
    ("query", "attributes", "status", "reason"),
    [
        ([("score_threshold", "1.01")], "", 400, "'1.01'; expected a number from 0 to 1"),
        ([("score_threshold", "inf")], "", 400, "'inf'"),
        ([("score_threshold", "")], "", 400, "''"),
        ([("max_detections", "-1")], "", 400, "expected an integer from 0"),
        ([("max_detections", "9" * 5000)], "", 400, "expected an integer"),
        ([("score", "0.5")], "", 400, "unknown parameter 'score'"),
        ([], "max_detections=few", 400, "'few'"),
        ([("classes", "cat")], "", 422, "no class 'cat'; its classes are cell, dust, fine, hair"),
        ([("classes", "")], "", 422, "no class ''"),
    ],
)
def test_bad_parameters(query: list[tuple[str, str]], attributes: str, status: int, reason: str) -> None:
    with pytest.raises(RequestError) as error:
        read_selection(query, attributes, NAMES)
    assert error.value.status == status
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (Selection(), [0, 1, 2, 3]),
        (Selection(0.5), [0, 1, 2]),
        (Selection(max_detections=2), [0, 1]),
        (Selection(max_detections=0), []),
        (Selection(labels=frozenset({1})), [0, 2]),
        (Selection(0.2, 1, frozenset({2, 3})), [1]),
    ],
)
def test_selected_detections(selection: Selection, rows: list[int]) -> None:
    selected = selection.apply(FOUND)
    for name in ("boxes", "scores", "labels"):
        ours, every = getattr(selected, name), getattr(FOUND, name)
        np.testing.assert_array_equal(ours, every[rows])


def test_the_default_threshold_applies_unless_the_client_gives_one() -> None:
    assert len(Selection().apply(FOUND, 0.85).scores) == 1
    assert len(Selection(0.0).apply(FOUND, 0.85).scores) == 4
