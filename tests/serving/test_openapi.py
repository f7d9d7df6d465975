"""The served OpenAPI description, held against the endpoint with inputs drawn from it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving_client import Endpoint, encode, picture

from frcnn import __version__
from frcnn.serving.request_body import CONTENT_TYPES
from frcnn.serving.response import ACCEPTED


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, picture(20, 10))
    return stream.getvalue()


for media_type, body in (
    ("image/*", encode(picture(20, 10))),
    ("application/x-image", encode(picture(20, 10))),
    ("application/x-npy", _npy()),
):
    schemathesis.openapi.media_type(media_type, st.just(body) | st.binary(max_size=200))

lines = st.lists(st.text() | st.just('{"b64": "AAAA"}'), max_size=3).map(lambda texts: "\n".join(texts).encode())
schemathesis.openapi.media_type("application/jsonlines", lines)


OPERATIONS = ["GET /ping", "GET /execution-parameters", "GET /openapi.json", "POST /invocations"]


@pytest.fixture(scope="module")
def description(endpoint: Endpoint) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_endpoint_keeps_to_its_description(description: schemathesis.schemas.BaseSchema, operation: str) -> None:
    """Every status, header and body is one that the description has; whatever is sent, no 500."""
    method, path = operation.split()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(description[path][method].as_strategy())
    def answers_as_described(case: schemathesis.Case) -> None:
        # A text that the schema allows need not be a picture, and a class need not be the model's.
        case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)

    answers_as_described()


def test_the_description_names_what_is_taken_and_given(endpoint: Endpoint) -> None:
    document = endpoint.get("/openapi.json").json()
    assert document["info"]["version"] == __version__
    assert sorted(
        f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods
    ) == sorted(OPERATIONS)
    invocations = document["paths"]["/invocations"]["post"]
    assert set(invocations["requestBody"]["content"]) == set(CONTENT_TYPES)
    answers = invocations["responses"]["200"]
    assert set(answers["content"]) == {accepted.partition(";")[0] for accepted in ACCEPTED}
    assert all(accepted in json.dumps(invocations) for accepted in ACCEPTED)
    assert set(invocations["responses"]) == {"200", "400", "406", "413", "415", "422", "500", "503"}
