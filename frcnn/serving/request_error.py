"""Why a request is not answered as it asked to be."""

from __future__ import annotations


class RequestError(Exception):
    """An answer other than 200: HTTP status and one sentence for the caller.

    400 what was sent is broken, 406 no such answer, 413 too much of it, 415 no such content type, 422 whole but not of a kind
    that we can use, 503 not now.

    Args:
        retry_after: seconds after which another try makes sense, or None where it never will.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after
