"""The custom attributes of a response: complete, allowed in a header, and below SageMaker's limit."""

from __future__ import annotations

import pytest

from frcnn.serving.custom_attributes import parse_attributes, response_attributes

OWN = {"model_version": "0996dd1b1d30", "variant": "blue"}
LAST = "model_version=0996dd1b1d30,variant=blue"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", LAST),
        ("trace=7", f"trace=7,{LAST}"),
        ("trace=é", LAST),
        ("trace=a\x7f", LAST),
        ("a=" + "x" * 981, f"a={'x' * 981},{LAST}"),
        ("a=" + "x" * 982, LAST),
        ("a=1," + "b=" + "x" * 2000, f"a=1,{LAST}"),
        ("a=1,b=2," * 500, "a=1,b=2," * 123 + LAST),
    ],
)
def test_the_clients_attributes_come_back_as_far_as_they_fit(given: str, expected: str) -> None:
    assert response_attributes(given, OWN) == expected
    assert len(expected) < 1024


def test_pairs() -> None:
    assert parse_attributes("a=1, b = 2 ,classes=x, y,z,alone") == [("a", "1"), ("b", "2"), ("classes", "x, y,z,alone")]
