"""The permissions in scripts/iam: valid JSON, actions that exist, nothing wider than it must be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import botocore.session
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "iam"
POLICIES = sorted(FOLDER.glob("*.json"))
# Names of IAM that are no operations of the service.
BESIDE_OPERATIONS = {"iam:PassRole", "s3:ListBucket"}
SERVICES = {"sagemaker": ("sagemaker", "sagemaker-runtime")}
# Actions that IAM knows no resource for, or (metrics, network interfaces) none that could be named before there is a job.
WITHOUT_RESOURCE = {
    "ecr:GetAuthorizationToken",
    "cloudwatch:PutMetricData",
    "cloudwatch:GetMetricData",
    "cloudwatch:GetMetricStatistics",
}


def statements(file: Path) -> list[dict]:
    return json.loads(file.read_text())["Statement"]


def actions(statement: dict) -> list[str]:
    return statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]


def operations(service: str) -> set[str]:
    session = botocore.session.get_session()
    return {
        name for part in SERVICES.get(service, (service,)) for name in session.get_service_model(part).operation_names
    }


def test_there_are_policies() -> None:
    assert [file.stem for file in POLICIES] == [
        "codebuild-permissions",
        "codebuild-trust",
        "kms-policy",
        "notebook-policy",
        "notebook-trust",
        "push-policy",
        "start-build-policy",
    ]


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_actions_exist(file: Path) -> None:
    for statement in statements(file):
        for action in set(actions(statement)) - BESIDE_OPERATIONS - {"sts:AssumeRole"}:
            service, name = action.split(":")
            assert name in operations(service), action


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_nothing_is_wider_than_it_must_be(file: Path) -> None:
    for statement in statements(file):
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions(statement))
        if statement.get("Resource") == "*":
            assert all(action in WITHOUT_RESOURCE or action.startswith("ec2:") for action in actions(statement)), (
                statement
            )
        if "iam:PassRole" in actions(statement):
            assert "iam:PassedToService" in statement["Condition"]["StringEquals"]
        if "Principal" in statement:
            assert statement["Principal"]["Service"].endswith(".amazonaws.com")
            assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == "${ACCOUNT}"


def test_pushing_in_codebuild_is_what_pushing_takes() -> None:
    """The same statements, so that neither can lag behind the script."""
    pushing = {statement["Sid"]: statement for statement in statements(FOLDER / "push-policy.json")}
    in_codebuild = {statement["Sid"]: statement for statement in statements(FOLDER / "codebuild-permissions.json")}
    assert pushing.items() <= in_codebuild.items()


def test_no_partition_is_written_out() -> None:
    for file in POLICIES:
        assert not re.search(r"arn:aws", file.read_text()), file
