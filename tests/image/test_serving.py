"""An endpoint in the image, with a model trained by it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from sagemaker_host import SMALL, Host

PORT = 18083


def status(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=2).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_ping_and_invocations(
    image: str, channel: Path, hosts: Callable[..., list[Host]], docker: Callable[..., str]
) -> None:
    (host,) = hosts(SMALL)
    host.start(image, channel)
    assert host.exit_code() == 0, host.log
    docker("rm", host.container)
    place = ("--publish", f"127.0.0.1:{PORT}:8080", "--read-only", "--tmpfs", "/tmp")
    host.container = docker(
        "run", "--detach", *place, "--volume", f"{host.folder / 'model'}:/opt/ml/model:ro", image, "serve"
    )
    deadline = time.monotonic() + 240
    while status(f"http://127.0.0.1:{PORT}/ping") != 200:
        assert host.running, host.log
        assert time.monotonic() < deadline, host.log
        time.sleep(1)
    photo = next((channel / "val").glob("*.jpg")).read_bytes()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/invocations", data=photo, headers={"Content-Type": "image/jpeg"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert isinstance(json.load(answer), dict)
    began = time.monotonic()
    docker("stop", "--time", "30", host.container)
    assert time.monotonic() - began < 30
    assert host.exit_code() == 0, host.log
