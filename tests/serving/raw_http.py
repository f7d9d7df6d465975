"""Requests byte by byte, malformed ones among them, and the status that each must get."""

from __future__ import annotations

import contextlib
import json
import socket

from serving_client import Endpoint

_POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"

# Of what HTTP itself forbids. Where nginx and gunicorn differ, both statuses are right.
MALFORMED: dict[str, tuple[bytes, set[int]]] = {
    "no HTTP": (b"nonsense\r\n\r\n", {400}),
    "control character in the path": (b"GET /ping\x01 HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "control character in a header": (b"GET /ping HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", {400}),
    "method TRACE": (b"TRACE /ping HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
    "unknown method": (b"BREW /invocations HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
    "long URI": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414}),
    "long header": (b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", {400, 431}),
    "HTTP 9.1": (b"GET /ping HTTP/9.1\r\nHost: x\r\n\r\n", {505}),
    "negative length": (_POST + b"Content-Length: -5\r\n\r\n", {400}),
    "two lengths": (_POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", {400}),
    "enormous length": (_POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc", {400, 413}),
    "length above the limit": (_POST + b"Content-Length: 1000000000\r\n\r\nabc", {413}),
    "length and chunks": (
        _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        {400},
    ),
    "no length": (_POST + b"\r\n", {400, 411}),
    "gzip as transfer encoding": (_POST + b"Transfer-Encoding: gzip\r\n\r\nabc", {400, 501}),
    "gzip in chunks": (_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", {501}),
    "chunk without a size": (_CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", {400}),
    "chunk of negative size": (_CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n", {400}),
    "chunk longer than its size": (_CHUNKED + b"3\r\nabcXX0\r\n\r\n", {400}),
    "chunks above the limit": (_CHUNKED + (b"100000\r\n" + b"a" * 0x100000 + b"\r\n") * 31 + b"0\r\n\r\n", {413}),
}


def send(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of the response to these bytes."""
    response = b""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.settimeout(60)
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the response may come before the request ends
            connection.sendall(request)
        while not (b"\r\n\r\n" in response and response.endswith(b"}\n")):
            try:
                part = connection.recv(65536)
            except ConnectionResetError:
                break
            if not part:
                break
            response += part
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


def assert_malformed_requests_get_json_errors(endpoint: Endpoint) -> None:
    wrong = []
    for name, (request, allowed) in MALFORMED.items():
        status, head, body = send(endpoint.port, request)
        if (
            status not in allowed
            or b"content-type: application/json" not in head
            or json.loads(body)["status"] != status
        ):
            wrong.append(f"{name}: {status} {head!r} {body[:200]!r}")
    assert not wrong, "\n".join(wrong)
    assert endpoint.get("/ping").status_code == 200
