"""Receives the body of a request from gunicorn, whole or not at all.

Werkzeug's stream ends a chunked body silently at its limit; here a body is complete, or an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flask import Request
from gunicorn.http.errors import NoMoreData, ParseException

from frcnn.serving.request_error import RequestError

_PART = 1 << 20  # bytes
BODY_TIMEOUT, DRAIN_TIMEOUT = 30.0, 1.0  # seconds without a byte from the client; nginx has the same limit of 30


def check_length(request: Request, limit: int) -> int:
    """Maximum size of the body in bytes: its Content-Length, or ``limit`` if it is sent in chunks.

    Raises:
        RequestError: 413, the body is larger than ``limit``; 501, it is encoded.
    """
    coding = request.headers.get("Transfer-Encoding", "").strip().lower()
    if coding not in ("", "chunked"):
        raise RequestError(501, f"the transfer encoding {coding[:80]!r} is not supported; send the body without it")
    size = request.content_length
    if size is None:
        return limit if coding else 0
    if size > limit:
        raise _too_large(limit)
    return size


def receive_body(request: Request, limit: int) -> bytes:
    """The body.

    Raises:
        RequestError: 413, larger than ``limit``; 400, malformed chunks or fewer bytes than announced; 408, the client
            stopped sending.
    """
    stream = request.environ["wsgi.input"]
    parts, size = [], 0
    try:
        with _socket_timeout(request, BODY_TIMEOUT):
            while part := stream.read(_PART):
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, "the request body was not received in time") from None
    except (ParseException, NoMoreData) as error:
        raise RequestError(400, f"the body is not complete: {str(error)[:200] or type(error).__name__}") from None
    if size < (request.content_length or 0):
        raise RequestError(400, f"the body has {size} bytes; its Content-Length is {request.content_length}")
    return b"".join(parts)


def drain(request: Request, limit: int) -> None:
    """Read and discard the rest of the body, up to ``limit`` bytes and only as long as the client is sending."""
    with contextlib.suppress(ParseException, OSError), _socket_timeout(request, DRAIN_TIMEOUT):
        while limit > 0 and (part := request.environ["wsgi.input"].read(_PART)):
            limit -= len(part)


@contextlib.contextmanager
def _socket_timeout(request: Request, seconds: float) -> Iterator[None]:
    connection = request.environ["gunicorn.socket"]
    connection.settimeout(seconds)
    try:
        yield
    finally:
        connection.settimeout(None)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than the limit of {limit >> 20} MiB")
