"""Requests to an endpoint, and its response."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote

from frcnn.aws.service_model import check_request
from frcnn.errors import UserError

MAX_BODY_BYTES = 6291456  # botocore's limit for one invocation


class InvokeResult(NamedTuple):
    """An endpoint's response.

    Attributes:
        body: in the requested format.
        content_type: media type of the body.
        variant: the production variant that answered.
    """

    body: bytes
    content_type: str
    variant: str


def invoke_async_request(
    endpoint: str,
    input_uri: str,
    *,
    content_type: str = "application/x-image",
    accept: str = "application/json",
    options: dict[str, float | str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of ``boto3.client("sagemaker-runtime").invoke_endpoint_async``; see :func:`invoke_request`.

    Raises:
        UserError: a value is not allowed.
    """
    request = {"EndpointName": endpoint, "InputLocation": input_uri, "ContentType": content_type, "Accept": accept}
    if options:
        request["CustomAttributes"] = _attributes(options)
    check_request("InvokeEndpointAsync", request, service="sagemaker-runtime")
    return request


def _attributes(options: dict[str, float | str]) -> str:
    """``key=value,...``; characters that a header cannot carry are percent-encoded, which the endpoint decodes."""
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return "".join(character if character.isascii() else quote(character) for character in text)


def invoke_request(
    endpoint: str,
    body: bytes,
    *,
    content_type: str = "application/x-image",
    accept: str = "application/json",
    variant: str | None = None,
    options: dict[str, float | str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of ``boto3.client("sagemaker-runtime").invoke_endpoint``.

    Args:
        endpoint: its name.
        body: an encoded image, or a body of another content type.
        content_type: media type of the body.
        accept: media type of the response.
        variant: the variant to ask; None: chosen by the weights.
        options: score_threshold, max_detections, classes; sent as custom attributes.

    Raises:
        UserError: the body exceeds the limit, or a value is not allowed.
    """
    if len(body) > MAX_BODY_BYTES:
        raise UserError(
            f"the image has {len(body) / 2**20:.1f} MiB and an endpoint accepts {MAX_BODY_BYTES / 2**20:.0f}; "
            "resize it, or use batch transform or an asynchronous endpoint"
        )
    request: dict[str, Any] = {"EndpointName": endpoint, "Body": body, "ContentType": content_type, "Accept": accept}
    if variant:
        request["TargetVariant"] = variant
    if options:
        request["CustomAttributes"] = _attributes(options)
    check_request("InvokeEndpoint", request, service="sagemaker-runtime")
    return request
