"""The policies in scripts/iam are valid, use existing actions and grant no more than necessary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import botocore.session
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "iam"
POLICIES = sorted(FOLDER.glob("*.json"))
# IAM actions that are not API operations.
NOT_OPERATIONS = {"iam:PassRole", "s3:ListBucket"}
SERVICES = {"sagemaker": ("sagemaker", "sagemaker-runtime")}
# Actions without resource-level permissions, or (metrics, network interfaces) without a resource known in advance.
WITHOUT_RESOURCE = {
    "ecr:GetAuthorizationToken",
    "cloudwatch:PutMetricData",
    "cloudwatch:GetMetricData",
    "cloudwatch:GetMetricStatistics",
    "sagemaker:ListEndpoints",
    "sagemaker:ListHyperParameterTuningJobs",
    "sagemaker:ListTrainingJobs",
    "sagemaker:ListTransformJobs",
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


def test_policies_are_complete() -> None:
    assert [file.stem for file in POLICIES] == [
        "codebuild-permissions",
        "codebuild-trust",
        "job-policy",
        "kms-policy",
        "notebook-policy",
        "push-policy",
        "sagemaker-trust",
        "start-build-policy",
    ]


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_actions_exist(file: Path) -> None:
    for statement in statements(file):
        for action in set(actions(statement)) - NOT_OPERATIONS - {"sts:AssumeRole"}:
            service, name = action.split(":")
            assert name in operations(service), action


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_no_permission_is_wider_than_necessary(file: Path) -> None:
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


def test_codebuild_includes_the_push_policy() -> None:
    """The same statements, so that both stay in sync with the script."""
    pushing = {statement["Sid"]: statement for statement in statements(FOLDER / "push-policy.json")}
    in_codebuild = {statement["Sid"]: statement for statement in statements(FOLDER / "codebuild-permissions.json")}
    assert pushing.items() <= in_codebuild.items()


def test_partition_is_not_hard_coded() -> None:
    for file in POLICIES:
        assert not re.search(r"arn:aws", file.read_text()), file


def test_containers_cannot_delete_anything_or_start_jobs() -> None:
    """A container reads data and writes results, logs and metrics: less than the user who starts it may do."""
    job = {action for statement in statements(FOLDER / "job-policy.json") for action in actions(statement)}
    deleting = {action for action in job if "Delete" in action}
    assert deleting == {"ec2:DeleteNetworkInterface", "ec2:DeleteNetworkInterfacePermission"}
    assert not any(action.startswith(("sagemaker:", "iam:")) for action in job)
