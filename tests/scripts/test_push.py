"""The build and push scripts without a Docker engine: names, help, dry runs. With an engine: tests/image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import boto3
import pytest
from botocore import loaders

SCRIPTS = (
    "scripts/build_image.sh",
    "scripts/push_ecr.sh",
    "scripts/push_dockerhub.sh",
    "local_test/train_local.sh",
    "local_test/serve_local.sh",
    "local_test/two_hosts_local.sh",
)
ACCOUNT = "123456789012"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_complete_and_does_nothing(name: str, script, repository) -> None:
    done = script(name, "--help", PATH="/usr/bin:/bin")
    assert done.returncode == 0
    header = re.match(r"#!/usr/bin/env bash\n((?:#.*\n)+)", (repository / name).read_text())
    assert done.stdout == re.sub("^# ?", "", header[1], flags=re.MULTILINE)
    defaults = re.findall(r"^([A-Z_]+)=\$\{\1", (repository / name).read_text(), flags=re.MULTILINE)
    assert all(re.search(rf"\b{variable}\b", done.stdout) for variable in defaults)


@pytest.mark.parametrize("name", SCRIPTS[:3])
def test_unknown_argument_is_rejected(name: str, script) -> None:
    done = script(name, "--dryrun")
    assert done.returncode == 2
    assert "unknown argument '--dryrun'" in done.stderr


def regions() -> list[tuple[str, str]]:
    """Every region known to botocore, with its partition's domain."""
    partitions = loaders.create_loader().load_data("partitions")["partitions"]
    return [
        (name, part["outputs"]["dnsSuffix"]) for part in partitions for name in part["regions"] if "global" not in name
    ]


def test_registry_of_every_region(script) -> None:
    found = {}
    for region, _ in regions():
        done = script(
            "scripts/push_ecr.sh", "--dry-run", AWS_REGION=region, AWS_ACCOUNT=ACCOUNT, SOURCE_IMAGE="frcnn:1"
        )
        assert done.returncode == 0
        found[region] = done.stdout
    assert len(found) > 30
    assert found == {region: f"{ACCOUNT}.dkr.ecr.{region}.{suffix}/frcnn:1\n" for region, suffix in regions()}


def test_ecr_steps(script) -> None:
    wanted = {"SOURCE_IMAGE": "localhost:5000/me/frcnn", "REPOSITORY": "team/frcnn", "TAG": "t"}
    done = script("scripts/push_ecr.sh", "--dry-run", AWS_ACCOUNT=ACCOUNT, **wanted)
    registry = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"  # the default region
    assert done.stderr.splitlines() == [
        "+ aws ecr create-repository --repository-name team/frcnn --image-scanning-configuration scanOnPush=true"
        " --image-tag-mutability IMMUTABLE",
        f"+ aws ecr get-login-password | docker login --username AWS --password-stdin {registry}",
        f"+ docker tag localhost:5000/me/frcnn {registry}/team/frcnn:t",
        f"+ docker push {registry}/team/frcnn:t",
    ]
    assert done.stdout == f"{registry}/team/frcnn:t\n"


@pytest.mark.parametrize(
    ("source", "tag", "name"),
    [
        ("frcnn:1.2-cpu", "", "docker.io/me/frcnn:1.2-cpu"),
        ("host:5000/frcnn", "", "docker.io/me/frcnn:latest"),  # a port is not a tag
        ("host:5000/frcnn:7", "9", "docker.io/me/frcnn:9"),
    ],
)
def test_dockerhub_name(source: str, tag: str, name: str, script) -> None:
    done = script("scripts/push_dockerhub.sh", "--dry-run", DOCKERHUB_USER="me", SOURCE_IMAGE=source, TAG=tag)
    assert done.stdout == name + "\n"
    assert done.stderr.splitlines() == [f"+ docker tag {source} {name}", f"+ docker push {name}"]


def test_dockerhub_needs_a_user_and_hides_the_token(script) -> None:
    assert "DOCKERHUB_USER is not set" in script("scripts/push_dockerhub.sh", "--dry-run").stderr
    done = script(
        "scripts/push_dockerhub.sh", "--dry-run", DOCKERHUB_USER="me", DOCKERHUB_TOKEN="s3cret", SOURCE_IMAGE="a:1"
    )
    assert "docker login --username me --password-stdin docker.io" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_builds_what_it_pushes(script) -> None:
    wanted = {"DEVICE": "cpu", "BASE_IMAGE": "local/base:1", "GIT_REVISION": "abc"}
    done = script("scripts/push_dockerhub.sh", "--dry-run", DOCKERHUB_USER="me", **wanted)
    assert "--build-arg BASE_IMAGE=local/base:1 --build-arg BUILD_IMAGE=local/base:1" in done.stderr
    assert re.fullmatch(r"docker\.io/me/frcnn:[\d.]+-abc-cpu\n", done.stdout)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DEVICE": "tpu"}, "DEVICE is 'tpu'; expected gpu or cpu"),
        ({"BASE_IMAGE": "mine"}, "BASE_IMAGE is set, but BUILD_IMAGE is not"),
    ],
)
def test_invalid_build_variables_are_rejected(variables: dict[str, str], message: str, script) -> None:
    done = script("scripts/build_image.sh", "--dry-run", **variables)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("scripts/build_image.sh", "IMAGE", "localhost:5000/me/frcnn:1"),
        ("scripts/push_ecr.sh", "REPOSITORY", "team/frcnn:1"),
        ("scripts/push_dockerhub.sh", "REPOSITORY", "frcnn:1"),
    ],
)
def test_tag_in_the_name_is_rejected(name: str, variable: str, value: str, script) -> None:
    # the name of the source may contain a tag
    others = {"DOCKERHUB_USER": "me", "AWS_ACCOUNT": ACCOUNT, "SOURCE_IMAGE": "frcnn:2"}
    done = script(name, "--dry-run", **others, **{variable: value})
    assert done.returncode == 2
    assert done.stderr == f"{name[8:-3]}: {variable} is '{value}', which contains a tag; set TAG instead\n"
    assert done.stdout == ""


BAD_NAMES = [
    ("AWS_ACCOUNT", "12345678901"),
    ("AWS_ACCOUNT", "1234-5678-9012"),
    ("AWS_REGION", "mars"),
    ("REPOSITORY", "Frcnn"),
    ("REPOSITORY", "team//frcnn"),
    ("REPOSITORY", "f"),
    ("REPOSITORY", "x" * 257),
    ("TAG", "-1"),
    ("TAG", "1.0+cpu"),
    ("TAG", "x" * 129),
    ("TAG_MUTABILITY", "yes"),
]


@pytest.mark.parametrize(("variable", "value"), BAD_NAMES)
def test_names_that_ecr_would_reject(variable: str, value: str, script) -> None:
    done = script(
        "scripts/push_ecr.sh", "--dry-run", **{"AWS_ACCOUNT": ACCOUNT, "SOURCE_IMAGE": "frcnn:1", variable: value}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"push_ecr: {variable} is '{value}'; expected ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "value", ["frcnn", "team/frcnn", "a.b_c/d-e", *(value for name, value in BAD_NAMES if name == "REPOSITORY")]
)
def test_repository_names_are_checked_as_by_botocore(value: str, script) -> None:
    ecr = boto3.client("ecr", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    shape = ecr.meta.service_model.shape_for("RepositoryName")
    valid = re.fullmatch(shape.metadata["pattern"], value) and 2 <= len(value) <= shape.metadata["max"]
    done = script("scripts/push_ecr.sh", "--dry-run", AWS_ACCOUNT=ACCOUNT, SOURCE_IMAGE="frcnn:1", REPOSITORY=value)
    assert (done.returncode == 0) == bool(valid)


def test_endpoint_is_passed_to_old_command_lines(script) -> None:
    done = script(
        "scripts/push_ecr.sh",
        "--dry-run",
        AWS_ENDPOINT_URL="http://localhost:1",
        AWS_ACCOUNT=ACCOUNT,
        SOURCE_IMAGE="a:1",
    )
    assert "+ aws --endpoint-url http://localhost:1 ecr create-repository" in done.stderr
    assert "+ aws --endpoint-url http://localhost:1 ecr get-login-password" in done.stderr


@pytest.mark.parametrize(
    ("client", "buildx", "code"), [("28.2.2", "exit 1", 2), ("28.2.2", "exit 0", 0), ("20.10.24", "exit 1", 0)]
)
def test_client_without_buildkit_is_rejected(client: str, buildx: str, code: int, script, tmp_path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.write_text(
        f"#!/bin/sh\ncase $1 in version) echo {client} ;; buildx) {buildx} ;; build) echo built >&2 ;; esac\n"
    )
    docker.chmod(0o755)
    done = script("scripts/build_image.sh", TAG="t", DOCKER=str(docker))
    assert done.returncode == code
    assert ("built" in done.stderr) == (code == 0)
    assert ("has no buildx plug-in, without which it cannot use BuildKit" in done.stderr) == (code == 2)


def test_untracked_files_make_the_tag_dirty(tmp_path, repository) -> None:
    for name in ("scripts/build_image.sh", "frcnn/__init__.py", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repository / name, tmp_path / name)

    def run(*command: str) -> str:
        identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "EMAIL": "me@example.org", "PATH": os.environ["PATH"]}
        return subprocess.run(command, cwd=tmp_path, env=identity, capture_output=True, text=True, check=True).stdout

    for arguments in (("init", "--quiet"), ("add", "."), ("-c", "user.name=me", "commit", "--quiet", "-m", "all")):
        run("git", *arguments)
    clean = run("scripts/build_image.sh", "--name").strip()
    assert not clean.endswith("-dirty")
    (tmp_path / "frcnn" / "new.py").touch()
    assert run("scripts/build_image.sh", "--name").strip() == f"{clean}-dirty"


def test_port_in_the_name_is_not_a_tag(script) -> None:
    done = script("scripts/build_image.sh", "--dry-run", IMAGE="localhost:5000/me/frcnn", TAG="t")
    assert done.stdout == "localhost:5000/me/frcnn:t\n"


@pytest.mark.parametrize(
    ("variables", "end"),
    [({}, ""), ({"DEVICE": "cpu"}, "-cpu"), ({"DEVICE": "cpu", "EFA_INSTALLER": "1.49.0"}, "-cpu-efa")],
)
def test_name_is_printed_without_a_build(variables: dict[str, str], end: str, script) -> None:
    done = script("scripts/build_image.sh", "--name", GIT_REVISION="abc", **variables)
    assert re.fullmatch(rf"frcnn:[\d.]+-abc{end}\n", done.stdout)
    assert done.stderr == ""
    assert script("scripts/build_image.sh", "--dry-run", GIT_REVISION="abc", **variables).stdout == done.stdout


def test_build_passes_secrets_and_further_arguments(script) -> None:
    done = script(
        "scripts/build_image.sh",
        "--dry-run",
        "--",
        "--network",
        "host",
        PIP_CONF="/a/pip.conf",
        CA_BUNDLE="/a/ca.pem",
        TAG="t",
    )
    assert "--secret id=pip_conf,src=/a/pip.conf --secret id=ca_bundle,src=/a/ca.pem --network host ." in done.stderr
    assert done.stdout == "frcnn:t\n"
