"""scripts/codebuild/start_build.py against a simulated account (moto)."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "codebuild" / "start_build.py"
BUCKET = "images-of-mine"


@pytest.fixture
def start_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("start_build", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.POLL_SECONDS = 0
    return module


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-west-2",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        session = boto3.session.Session()
        session.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        yield session


def write_log(session: Any, *lines: str) -> dict[str, str]:
    """Write a log; returns its location as CodeBuild reports it."""
    logs, stream = session.client("logs"), {"logGroupName": "/aws/codebuild/frcnn-image", "logStreamName": "a"}
    logs.create_log_group(logGroupName=stream["logGroupName"])
    logs.create_log_stream(**stream)
    logs.put_log_events(
        **stream,
        logEvents=[{"timestamp": int(time.time() * 1000) + n, "message": line} for n, line in enumerate(lines)],
    )
    return {"groupName": stream["logGroupName"], "streamName": stream["logStreamName"]}


def test_role_project_and_source(start_build: ModuleType, session: Any, capsys: pytest.CaptureFixture[str]) -> None:
    start_build.main(["--bucket", BUCKET, "--create-role", "--set", "DEVICE=cpu"])
    role = session.client("iam").get_role(RoleName="frcnn-image-build")["Role"]
    assert (
        role["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]["StringEquals"]["aws:SourceAccount"]
        == DEFAULT_ACCOUNT_ID
    )
    permissions = session.client("iam").get_role_policy(RoleName="frcnn-image-build", PolicyName="build-and-push")[
        "PolicyDocument"
    ]
    resources = [statement["Resource"] for statement in permissions["Statement"]]
    assert f"arn:aws:ecr:us-west-2:{DEFAULT_ACCOUNT_ID}:repository/frcnn" in resources
    assert f"arn:aws:s3:::{BUCKET}/frcnn-image-source/*" in resources

    project = session.client("codebuild").batch_get_projects(names=["frcnn-image"])["projects"][0]
    assert project["environment"]["privilegedMode"] is True
    variables = {entry["name"]: entry["value"] for entry in project["environment"]["environmentVariables"]}
    assert variables["DEVICE"] == "cpu"
    assert variables["REPOSITORY"] == "frcnn"
    assert project["source"]["location"].startswith(f"{BUCKET}/frcnn-image-source/{variables['GIT_REVISION']}")
    assert session.client("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0  # deleted again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--bucket", "no-such-bucket", "--create-role"],
            "start_build: bucket 'no-such-bucket' does not exist; create it: aws s3 mb s3://no-such-bucket\n",
        ),
        (["--bucket", "Not/A/Bucket"], 'start_build: Parameter validation failed:\nInvalid bucket name "Not/A/Bucket"'),
    ],
)
def test_unusable_bucket_is_reported_before_a_role_is_created(
    arguments: list[str], message: str, start_build: ModuleType, session: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start_build.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)
    assert "frcnn-image-build" not in [role["RoleName"] for role in session.client("iam").list_roles()["Roles"]]


def test_setting_without_value_is_rejected(start_build: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        start_build.main(["--bucket", BUCKET, "--set", "DEVICE"])
    assert stop.value.code == 2
    assert "'DEVICE' is not NAME=VALUE" in capsys.readouterr().err


def test_missing_region_is_reported(
    start_build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert start_build.main(["--bucket", BUCKET]) == 2
    assert capsys.readouterr().err.startswith("start_build: no region is configured")


def test_log_is_read_once(start_build: ModuleType, session: Any) -> None:
    written, logs = ("[Container] Running command", "frcnn image 1.dkr/frcnn:1"), session.client("logs")
    stream = write_log(session, *written)
    lines, token = start_build.new_lines(logs, stream, None)
    assert lines == list(written)
    assert start_build.new_lines(logs, stream, token)[0] == []
    assert start_build.new_lines(logs, {**stream, "groupName": "/aws/codebuild/none"}, None) == ([], None)


def test_existing_project_is_updated(start_build: ModuleType) -> None:
    """moto does not implement updates; botocore validates the request against the service model."""
    codebuild = boto3.client("codebuild", region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x")
    values = {"PROJECT": "p1", "BUCKET": BUCKET, "PARTITION": "aws", "ACCOUNT": DEFAULT_ACCOUNT_ID, "BUILD_ROLE": "r"}
    with Stubber(codebuild) as stub:
        stub.add_client_error("create_project", "ResourceAlreadyExistsException")
        stub.add_response("update_project", {})
        start_build.put_project(SimpleNamespace(client=lambda _: codebuild), values, "prefix/1.zip", {"DEVICE": "cpu"})
        stub.assert_no_pending_responses()


def test_dry_run_creates_nothing(start_build: ModuleType, session: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start_build.main(["--bucket", BUCKET, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["REGION"] == "us-west-2"
    assert start_build.main(["--bucket", BUCKET, "--print-policies"]) == 0
    printed = capsys.readouterr().out
    assert "${" not in printed
    assert printed.count('"Version": "2012-10-17"') == 7
    assert session.client("codebuild").list_projects()["projects"] == []
    assert "frcnn-image-build" not in [role["RoleName"] for role in session.client("iam").list_roles()["Roles"]]
    assert sys.modules.get("start_build") is None


@pytest.mark.parametrize(
    ("options", "jobs", "build"),
    [([], "frcnn-training", "frcnn-image-build"), (["--job-role", "mine", "--role", "builder"], "mine", "builder")],
)
def test_each_policy_passes_its_own_role(
    options: list[str], jobs: str, build: str, start_build: ModuleType, session: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start_build.main(["--bucket", BUCKET, "--print-policies", *options])
    printed = re.split(r"^# (\S+)\.json\n", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    passed = {
        (name, statement["Resource"], statement["Condition"]["StringEquals"]["iam:PassedToService"])
        for name, text in zip(printed[::2], printed[1::2], strict=True)
        for statement in json.loads(text)["Statement"]
        if statement["Action"] == "iam:PassRole"
    }
    assert passed == {
        ("notebook-policy", f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/{jobs}", "sagemaker.amazonaws.com"),
        ("start-build-policy", f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/{build}", "codebuild.amazonaws.com"),
    }


def test_key_policy_is_printed_with_a_key(
    start_build: ModuleType, session: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"arn:aws:kms:us-west-2:{DEFAULT_ACCOUNT_ID}:key/1234"
    start_build.main(["--bucket", BUCKET, "--print-policies", "--kms-key", key])
    printed = capsys.readouterr().out
    assert printed.count('"Version": "2012-10-17"') == 8
    assert f'"Resource": "{key}"' in printed


def test_buildspec_prints_the_image_line(start_build: ModuleType) -> None:
    text = SCRIPT.with_name("buildspec.yml").read_text()
    assert f'echo "{start_build.IMAGE_LINE}$name"' in text
