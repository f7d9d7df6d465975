"""The HTTP side of a local server; tests/test_notebook.py runs a real model."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from frcnn.aws import local_server
from frcnn.aws.local_server import LocalServer
from frcnn.errors import UserError


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(400 if body == b"bad" else 200)
        self.send_header("Content-Type", self.headers["Accept"])
        self.end_headers()
        self.wfile.write(b"no image" if body == b"bad" else body.upper())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A LocalServer whose process does nothing and whose address is that of a small HTTP server."""
    monkeypatch.setattr(local_server, "serve_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        server = LocalServer("m", tmp_path / "model.tar.gz", tmp_path / "log")
        monkeypatch.setattr(server, "_url", f"http://127.0.0.1:{answering.server_address[1]}")
        yield server
        server.stop()
        answering.shutdown()


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
def test_requests_ignore_proxies(server: LocalServer, proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on port 9: through the proxy, no request would arrive."""
    if proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
    server.wait_until_healthy()
    assert server.post(b"body", {"Accept": "text/plain"}) == (b"BODY", "text/plain")


def test_a_rejected_request(server: LocalServer) -> None:
    with pytest.raises(UserError, match="the container rejected the request with 400: no image"):
        server.post(b"bad", {"Accept": "text/plain"})
