"""Training jobs on one host, in the image, as SageMaker runs them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sagemaker_host import ENDLESS, SMALL, Host

USER = 12345  # without a name or a home folder in the image
HARDENED = {
    "read-only root": ("--read-only", "--tmpfs", "/tmp"),
    "no network": ("--network", "none", "--add-host", "algo-1:127.0.0.1"),
    "no privileges": ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256"),
}


@pytest.mark.parametrize("arguments", [(), *HARDENED.values()], ids=["plain", *HARDENED])
def test_train_leaves_a_model(
    image: str, channel: Path, hosts: Callable[..., list[Host]], arguments: tuple[str, ...]
) -> None:
    (host,) = hosts(SMALL)
    host.start(image, channel, *arguments)
    assert host.exit_code() == 0, host.log
    assert max(host.steps()) == 4  # half an epoch of 16 images in batches of two
    assert (host.folder / "model/weights.safetensors").stat().st_size > 1 << 20
    assert not (host.folder / "output/failure").exists()


def test_outputs_belong_to_the_containers_user(image: str, channel: Path, hosts: Callable[..., list[Host]]) -> None:
    (host,) = hosts(SMALL)
    for path in (host.folder, *host.folder.rglob("*")):
        os.chown(path, USER, USER)
    for path in (channel, *channel.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    host.start(image, channel, "--user", f"{USER}:{USER}")
    assert host.exit_code() == 0, host.log
    written = [path for part in ("model", "output") for path in (host.folder / part).rglob("*")]
    assert host.folder / "model/weights.safetensors" in written
    assert {path.stat().st_uid for path in written} == {USER}
    assert {path.stat().st_mode & 0o777 for path in written if path.is_file()} == {0o644}


def test_bad_channel_is_reported(image: str, hosts: Callable[..., list[Host]], tmp_path: Path) -> None:
    (tmp_path / "bad/photos").mkdir(parents=True)
    (host,) = hosts(SMALL)
    host.start(image, tmp_path / "bad")
    assert host.exit_code() != 0
    failure = host.failure()
    assert len(failure.encode()) <= 1024
    assert "training" in failure
    assert "algo-1" in failure.splitlines()[0]
    assert len(failure.splitlines()) == 2


def test_stopped_job_resumes_from_its_step(
    image: str, channel: Path, hosts: Callable[..., list[Host]], docker: Callable[..., str]
) -> None:
    (host,) = hosts(ENDLESS)
    host.start(image, channel)
    host.wait_for_step(3)
    began = time.monotonic()
    docker("stop", "--time", "90", host.container)
    assert time.monotonic() - began < 90
    assert host.exit_code() == 0, host.log
    reached = json.loads((host.folder / "output/data/interrupted.json").read_text())["step"]
    assert reached >= 3
    assert any(str(reached) in name for name in host.checkpoints())
    docker("rm", host.container)

    host.start(image, channel)
    host.wait_for_step(reached + 1)
    assert min(host.steps()) == reached + 1
    docker("stop", "--time", "90", host.container)


def test_out_of_memory_is_reported(image: str, channel: Path, hosts: Callable[..., list[Host]]) -> None:
    (host,) = hosts(SMALL)
    host.start(image, channel, "--memory", "400m", "--memory-swap", "400m")
    assert host.exit_code() != 0
    assert "SIGKILL" in host.failure() or "memory" in host.failure().lower()
