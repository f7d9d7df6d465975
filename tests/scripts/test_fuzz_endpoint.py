"""tools/fuzz_endpoint.py: its requests can be repeated, and it recognizes wrong responses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    import fuzz_endpoint

    yield fuzz_endpoint
    for name in ("fuzz_endpoint", "serving"):
        sys.modules.pop(name, None)


def test_requests_are_a_function_of_seed_and_number(fuzz: ModuleType) -> None:
    first, again, other = fuzz.Requests(0), fuzz.Requests(0), fuzz.Requests(1)
    requests = [first.request(number) for number in range(30)]
    assert [again.request(number) for number in reversed(range(30))] == requests[::-1]
    assert [other.request(number) for number in range(30)] != requests
    assert len({request for request, _ in requests}) > 20


@pytest.mark.parametrize(
    ("response", "intact", "status", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", True, "200", None),
        (b'HTTP/1.1 400 Bad Request\r\n\r\n{"error": "x", "status": 400}', True, "400", None),
        (b'HTTP/1.1 503 Busy\r\n\r\n{"error": "x", "status": 503}', True, "503", None),
        (b'HTTP/1.1 500 Error\r\n\r\n{"error": "x", "status": 500}', True, "500", "status 500"),
        (b'HTTP/1.1 502 Bad Gateway\r\n\r\n{"error": "x", "status": 502}', False, "502", "status 502"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n<html>", True, "404", "the error is not JSON"),
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"error": "x", "status": 400}', True, "404", "status 404, but"),
        (b"", True, "closed", "no response"),
        (b"", False, "closed", None),
        (b"pong", False, "HTTP/0.9", None),
    ],
)
def test_judgment(fuzz: ModuleType, response: bytes, intact: bool, status: str, wrong: str | None) -> None:
    found, failure = fuzz.judge(response, intact)
    assert found == status
    assert (failure is None) if wrong is None else failure.startswith(wrong)
