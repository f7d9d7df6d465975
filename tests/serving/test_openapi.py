"""The endpoint conforms to its OpenAPI description, on inputs generated from it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving_client import Endpoint, encode, make_image

from frcnn import __version__
from frcnn.serving.request_body import CONTENT_TYPES
from frcnn.serving.response import ACCEPTED


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, make_image(20, 10))
    return stream.getvalue()


for media_type, body in (
    ("image/*", encode(make_image(20, 10))),
    ("application/x-image", encode(make_image(20, 10))),
    ("application/x-npy", _npy()),
    ("application/octet-stream", _npy()),
):
    schemathesis.openapi.media_type(media_type, st.just(body) | st.binary(max_size=200))

lines = st.lists(st.text() | st.just('{"b64": "AAAA"}'), max_size=3).map(lambda texts: "\n".join(texts).encode())
schemathesis.openapi.media_type("application/jsonlines", lines)


OPERATIONS = ["GET /ping", "GET /execution-parameters", "GET /openapi.json", "POST /invocations"]


@pytest.fixture(scope="module")
def description(endpoint: Endpoint) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_endpoint_conforms_to_its_description(description: schemathesis.schemas.BaseSchema, operation: str) -> None:
    """Every status, header and body matches the description, and no input causes a 500."""
    method, path = operation.split()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(description[path][method].as_strategy())
    def conforms(case: schemathesis.Case) -> None:
        # A string that the schema allows need not be an image, nor a class of the model.
        case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)

    conforms()


def test_the_description_lists_all_types_and_operations(endpoint: Endpoint) -> None:
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
    assert set(invocations["responses"]) == {"200", "400", "406", "408", "413", "415", "422", "500", "501", "503"}
