"""gunicorn's threaded worker, with the endpoint's JSON for requests that never reach the application."""

from __future__ import annotations

import contextlib
import json
import logging
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

# Of gunicorn's errors those that have a status of their own; all other malformed requests get 400.
_STATUS: dict[type[Exception], int] = {
    errors.UnsupportedTransferCoding: 501,
    errors.InvalidHTTPVersion: 505,
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.ExpectationFailed: 417,
}

logger = logging.getLogger(__name__)


class Worker(ThreadWorker):
    """Writes the response to a request that gunicorn cannot parse, or whose handling raised."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if isinstance(exc, errors.ParseException) and not isinstance(
            exc, (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
        ):
            status = _STATUS.get(type(exc), 400)
            message = f"the request is not valid HTTP: {str(exc)[:200]}"
        else:
            logger.error("a request failed", exc_info=exc)
            status, message = 500, "internal server error; see the endpoint log"
        body = json.dumps({"error": message, "status": status}).encode() + b"\n"
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # the client may be gone
            client.sendall(head.encode() + body)
