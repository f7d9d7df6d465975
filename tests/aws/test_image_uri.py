from __future__ import annotations

import boto3
import pytest
from moto import mock_aws

from frcnn.aws.image_uri import get_image_uri, region_of_image
from frcnn.errors import UserError

ACCOUNT = "123456789012"
DIGEST = "sha256:" + "0f" * 32


@pytest.mark.parametrize(
    ("repository", "tag", "region", "uri"),
    [
        ("frcnn", "0.1.0", "us-east-1", f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/frcnn:0.1.0"),
        (
            "team/frcnn",
            "0.1.0-ab12",
            "cn-northwest-1",
            f"{ACCOUNT}.dkr.ecr.cn-northwest-1.amazonaws.com.cn/team/frcnn:0.1.0-ab12",
        ),
        ("frcnn", DIGEST, "us-iso-east-1", f"{ACCOUNT}.dkr.ecr.us-iso-east-1.c2s.ic.gov/frcnn@{DIGEST}"),
    ],
)
def test_full_names(repository: str, tag: str, region: str, uri: str) -> None:
    assert get_image_uri(repository, tag, account=ACCOUNT, region=region) == uri
    assert region_of_image(uri) == region


@mock_aws
def test_account_and_region_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    account = boto3.client("sts").get_caller_identity()["Account"]
    assert get_image_uri("frcnn", "1") == f"{account}.dkr.ecr.eu-west-1.amazonaws.com/frcnn:1"


@pytest.mark.parametrize(
    ("repository", "tag", "account", "message"),
    [
        ("Frcnn", "1", ACCOUNT, "repository 'Frcnn' is not a valid ECR name"),
        ("frcnn", "1/2", ACCOUNT, "tag '1/2' is neither a tag"),
        ("frcnn", "sha256:12", ACCOUNT, "neither a tag .* nor a digest"),
        ("frcnn", "1", "12345", "account '12345' is not an AWS account id; expected twelve digits"),
    ],
)
def test_parts_that_ecr_rejects(repository: str, tag: str, account: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_image_uri(repository, tag, account=account, region="us-east-1")


@pytest.mark.parametrize("image", ["johndoe/frcnn:1", "docker.io/library/frcnn:1", "frcnn"])
def test_images_outside_ecr_are_rejected(image: str) -> None:
    with pytest.raises(
        UserError,
        match=r"is not in Amazon ECR, the only registry SageMaker pulls from; push it with scripts/push_ecr\.sh",
    ):
        region_of_image(image)
