"""push_ecr.sh with images that exist in ECR: the AWS command line against moto's server. Real pushes: tests/image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

REPOSITORY = Path(__file__).resolve().parents[2]
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
Push = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(not shutil.which("aws"), reason="the AWS command line is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def keys(server: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture
def ecr(server: str) -> Iterator[Any]:
    client = boto3.client(
        "ecr", endpoint_url=server, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.create_repository(repositoryName="frcnn", imageTagMutability="IMMUTABLE")
    yield client
    client.delete_repository(repositoryName="frcnn", force=True)


@pytest.fixture
def push(keys: dict[str, str], tmp_path: Path) -> Push:
    """A dry run: it queries AWS, and prints what it would build, tag and push."""

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            **keys,
            "GIT_REVISION": "abc",
            **variables,
        }
        command = [REPOSITORY / "scripts" / "push_ecr.sh", "--dry-run"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run


def put(ecr: Any, name: str) -> str:
    """Tag an image in ECR; returns its digest."""
    tag = name.rpartition(":")[2]
    image = ecr.put_image(repositoryName="frcnn", imageManifest=json.dumps({**MANIFEST, "tag": tag}), imageTag=tag)
    return image["image"]["imageId"]["imageDigest"]


def test_new_tag_is_built_and_pushed(ecr: Any, push: Push) -> None:
    put(ecr, "frcnn:other")
    done = push()
    assert done.returncode == 0, done.stderr
    assert "+ docker build" in done.stderr
    assert "create-repository" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"+ docker push {done.stdout.strip()}"


def test_same_commit_is_not_built_again(ecr: Any, push: Push) -> None:
    name = push().stdout.strip()
    put(ecr, name)
    done = push()
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    assert done.stderr == "push_ecr: this image has been pushed already\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_REVISION": "abc-dirty"},
        {"GIT_REVISION": "unknown"},
        {"TAG": "0.1.0"},
        {"BASE_IMAGE": "a/runtime", "BUILD_IMAGE": "a/devel"},
        {"EFA_INSTALLER": "1.49.0"},
    ],
    ids=str,
)
def test_image_that_may_differ_is_rejected_before_the_build(variables: dict[str, str], ecr: Any, push: Push) -> None:
    name = push(**variables).stdout.strip()
    put(ecr, name)
    done = push(**variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"push_ecr: {name} is another image, and tags of this repository are immutable; set TAG"
    )
    assert len(done.stderr.splitlines()) == 1


def test_local_image_is_compared_by_its_digest(ecr: Any, push: Push, tmp_path: Path) -> None:
    """A script that prints the result of `docker inspect` replaces the engine."""
    digest = put(ecr, f"{REGISTRY}/frcnn:1")
    for known, code in ((digest, 0), ("sha256:" + 64 * "0", 1)):
        (tmp_path / "docker").write_text(f"#!/bin/sh\necho a/b@sha256:1\necho {REGISTRY}/frcnn@{known}\n")
        (tmp_path / "docker").chmod(0o755)
        assert push(SOURCE_IMAGE="frcnn:1").returncode == code


def test_mutable_tags_are_overwritten(ecr: Any, push: Push) -> None:
    ecr.put_image_tag_mutability(repositoryName="frcnn", imageTagMutability="MUTABLE")
    put(ecr, f"{REGISTRY}/frcnn:1")
    done = push(SOURCE_IMAGE="frcnn:1")
    assert done.stdout == f"{REGISTRY}/frcnn:1\n"
    assert f"+ docker push {REGISTRY}/frcnn:1" in done.stderr
