"""A model served by a process of this machine, in place of an endpoint's container."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from frcnn.errors import UserError

START_SECONDS = 300
PING_SECONDS, INVOKE_SECONDS = 2, 60  # SageMaker's own limits
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy must not apply to this machine


def serve_command(model: str, artifact: Path, port: int) -> list[str]:
    """Command line of the server of a model."""
    command = [sys.executable, "-m", "frcnn", "serve", "--model", str(artifact), "--port", str(port)]
    return [*command, "--no-nginx", "--no-page", "--variant", model]


class LocalServer:
    """``frcnn serve`` on a free port of this machine.

    Args:
        model: name of the model, reported as the variant.
        artifact: its ``model.tar.gz``.
        log: file for the server's output.
    """

    def __init__(self, model: str, artifact: Path, log: Path) -> None:
        self.model, self._log = model, log
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        with log.open("wb") as out:
            command = serve_command(model, artifact, port)
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def wait_until_healthy(self) -> None:
        """Wait until the server answers pings.

        Raises:
            UserError: it exits or does not become healthy; the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._log.read_text(errors="replace")
                raise UserError(f"the server of model {self.model} failed to start: {log[-1024:]}")
            time.sleep(0.2)

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        """Body and content type of the response to a request.

        Raises:
            UserError: the server rejects the request: its message.
        """
        request = urllib.request.Request(f"{self._url}/invocations", body, headers)
        try:
            with _DIRECT.open(request, timeout=INVOKE_SECONDS) as response:
                return response.read(), response.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            raise UserError(
                f"the container rejected the request with {error.code}: {error.read().decode(errors='replace')}"
            ) from error

    def stop(self) -> None:
        """Terminate the server and wait for its exit."""
        self._process.terminate()
        self._process.wait()

    def _is_healthy(self) -> bool:
        try:
            with _DIRECT.open(f"{self._url}/ping", timeout=PING_SECONDS) as ping:
                return bool(ping.status == 200)
        except OSError:
            return False
