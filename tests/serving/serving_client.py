"""The real server as a process, and images to send to it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

CLASSES = ("cell", "dust, fine", "hair")
START_TIMEOUT = 240  # seconds; tracing takes long on a busy machine
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Endpoint:
    """A running ``frcnn serve``."""

    def __init__(self, model: Path, folder: Path, *flags: str) -> None:
        # A long path with blanks and quotes, which neither nginx nor sockets take as it is.
        self.temporary = folder / f'temporary "folder" {"of a long name " * 8}'
        self.temporary.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._files = [folder / "stdout", folder / "stderr"]
        command = [sys.executable, "-m", "frcnn", "serve", "--model", str(model), "--port", str(self.port), *flags]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            environment = {**os.environ, "TMPDIR": str(self.temporary)}
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    def post(
        self, body: bytes, content_type: str = "image/png", accept: str | None = None, **options: Any
    ) -> requests.Response:
        """POST to /invocations; ``options`` are keyword arguments of ``requests.post``."""
        headers = {"Content-Type": content_type, "Accept": accept, **options.pop("headers", {})}
        return requests.post(f"{self.url}/invocations", data=body, headers=headers, timeout=120, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=30, **options)

    def wait_until_healthy(self) -> Endpoint:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/ping").status_code == 200:
                    return self
            except requests.ConnectionError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"no healthy endpoint (exit code {self.process.poll()}):\n{self.errors()}")

    def log(self) -> list[dict[str, Any]]:
        """The request log so far."""
        return [json.loads(line) for line in self._files[0].read_text().splitlines()]

    def errors(self) -> str:
        return self._files[1].read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; kill the server if it does not exit."""
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    def workers(self) -> list[int]:
        return [worker for gunicorn in children(self.process.pid, "python") for worker in children(gunicorn, "")]


def children(process: int, name: str) -> list[int]:
    """Process ids of a process's children whose program name contains ``name``."""
    listed = subprocess.run(
        ["ps", "--ppid", str(process), "-o", "pid=,comm="], capture_output=True, text=True, check=False
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if name in line.split(None, 1)[1]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_image(width: int = 90, height: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth random colors ``[height, width, 3]`` uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format, **options)
    return encoded.getvalue()
