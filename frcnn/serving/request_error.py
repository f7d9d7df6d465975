"""The error responses of a request."""

from __future__ import annotations


class RequestError(Exception):
    """A response other than 200: an HTTP status and one sentence for the client.

    400 broken input, 406 no acceptable response type, 413 too large, 415 unknown content type, 422 well-formed but
    unusable, 503 not now.

    Args:
        retry_after: seconds after which the client may retry, or None if a retry cannot succeed.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
