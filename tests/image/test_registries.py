"""The push scripts against real registries: one on this machine, and one under ECR's host name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import engine
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
REGISTRY, USER, TOKEN = "127.0.0.1:5001", "me", "a-token"
MOTO = "127.0.0.1:5055"


@pytest.fixture(scope="module")
def registry(daemons: engine.Daemons) -> str:
    engine.start_registry(daemons, "hub", REGISTRY, USER, TOKEN, tls=False)
    return REGISTRY


@pytest.fixture(scope="module")
def aws(daemons: engine.Daemons) -> dict[str, str]:
    """Variables that direct the AWS command line and SDKs to moto."""
    engine.start_registry(daemons, "ecr", f"{engine.ECR_ADDRESS}:443", "AWS", engine.ECR_PASSWORD, tls=True)
    host, port = MOTO.split(":")
    daemons.start("moto", Path(sys.executable).with_name("moto_server"), "-H", host, "-p", port)
    engine.wait_for("moto", lambda: engine.responds(f"http://{MOTO}/moto-api/"))
    return {
        "AWS_ENDPOINT_URL": f"http://{MOTO}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": engine.REGION,
    }


@pytest.fixture
def login(tmp_path: Path) -> dict[str, str]:
    """Keep the tests' credentials out of the user's file."""
    return {"DOCKER_CONFIG": str(tmp_path / "docker")}


def push(name: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / name], env={**os.environ, **variables}, capture_output=True, text=True, timeout=600, check=False
    )


def pull_and_run(
    docker: Callable[..., str], name: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """Pull the image back from the registry; returns its --version."""
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    docker("rmi", name)
    docker("pull", "--quiet", name)
    return docker("run", "--rm", name, "--version")


def test_docker_hub(
    docker: Callable[..., str], image: str, registry: str, login: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"REGISTRY": registry, "DOCKERHUB_USER": USER, "SOURCE_IMAGE": image, "TAG": "tests"}
    refused = push("push_dockerhub.sh", {**variables, **login})
    assert refused.returncode != 0  # not logged in
    done = push("push_dockerhub.sh", {**variables, **login, "DOCKERHUB_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{registry}/{USER}/frcnn:tests"
    assert pull_and_run(docker, f"{registry}/{USER}/frcnn:tests", login, monkeypatch).startswith("frcnn")


def test_ecr(
    docker: Callable[..., str], image: str, aws: dict[str, str], login: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.ECR not in Path(f"/proc/{docker_pid()}/root/etc/hosts").read_text():
        pytest.skip("the engine of DOCKER_HOST does not resolve ECR's host name to the test registry")
    done = push("push_ecr.sh", {**aws, **login, "SOURCE_IMAGE": image, "TAG": "tests"})
    assert done.returncode == 0, done.stderr
    name = f"{engine.ECR}/frcnn:tests"
    assert done.stdout.splitlines()[-1] == name
    ask = ["aws", "ecr", "describe-repositories", "--region", engine.REGION]
    described = subprocess.run(ask, env={**os.environ, **aws}, capture_output=True, text=True, check=True).stdout
    (repository,) = json.loads(described)["repositories"]
    assert repository["repositoryName"] == "frcnn"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert pull_and_run(docker, name, login, monkeypatch).startswith("frcnn")
    # The repository exists now; a second push creates nothing.
    assert push("push_ecr.sh", {**aws, **login, "SOURCE_IMAGE": image, "TAG": "tests"}).returncode == 0


def docker_pid() -> int:
    """Process id of the engine, which has its own /etc/hosts."""
    socket = os.environ["DOCKER_HOST"].removeprefix("unix://")
    return int(Path(socket).with_name("docker.pid").read_text())
