"""Every kind of limit in the service model, with a request just outside it."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest

from frcnn.aws.service_model import check_request, partition_suffix
from frcnn.errors import UserError

GOOD: dict[str, Any] = {
    "TrainingJobName": "a-1",
    "AlgorithmSpecification": {
        "TrainingImage": "i",
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "AP", "Regex": "AP=(.*)"}],
    },
    "RoleArn": "arn:aws:iam::123456789012:role/r",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
    "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 1},
    "HyperParameters": {"training.epochs": "1"},
    "Tags": [{"Key": "project", "Value": "Bäume: 1 + 2_3"}],
}


def test_a_good_request_passes() -> None:
    check_request("CreateTrainingJob", GOOD)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("TrainingJobName",), "a_1", "TrainingJobName is 'a_1', which does not match"),
        (("TrainingJobName",), "a" * 64, "TrainingJobName has 64 characters, at most 63 allowed"),
        (("RoleArn",), "arn:aws:iam::12:role/r-and-more", "RoleArn is"),
        (("ResourceConfig", "InstanceType"), "ml.g5.xlargee", "expected a value like ml.g5.xlarge"),
        (
            ("ResourceConfig", "KeepAlivePeriodInSeconds"),
            21601,
            "KeepAlivePeriodInSeconds is 21601, at most 21600 allowed",
        ),
        (
            ("AlgorithmSpecification", "TrainingInputMode"),
            "Fast",
            "TrainingInputMode is 'Fast'; expected one of FastFile",
        ),
        (
            ("AlgorithmSpecification", "MetricDefinitions"),
            [{"Name": "a", "Regex": "a"}] * 41,
            "MetricDefinitions has 41 entries, at most 40",
        ),
        (("HyperParameters",), {str(i): "1" for i in range(101)}, "HyperParameters has 101 entries, at most 100"),
        (("HyperParameters",), {"a": "b" * 2501}, "HyperParameters\\['a'\\] (has 2501 characters|is)"),
        (("HyperParameters",), {"a": 1}, "Invalid type for parameter HyperParameters.a"),
        (("OutputDataConfig", "S3OutputPath"), "bucket/out", "S3OutputPath is 'bucket/out'"),
        (("OutputDataConfig", "S3Path"), "s3://b", 'Unknown parameter in OutputDataConfig: "S3Path"'),
        (("StoppingCondition", "MaxRuntimeInSeconds"), 0, "MaxRuntimeInSeconds"),
    ],
)
def test_violations(path: tuple[str, ...], value: Any, message: str) -> None:
    request = copy.deepcopy(GOOD)
    member = request
    for name in path[:-1]:
        member = member[name]
    member[path[-1]] = value
    with pytest.raises(UserError, match=f"CreateTrainingJob request: .*{message}"):
        check_request("CreateTrainingJob", request)


def test_all_errors_are_reported() -> None:
    with pytest.raises(
        UserError, match=r'Missing required parameter in input: "RoleArn"; Unknown parameter in input: "Rolearn"'
    ):
        check_request(
            "CreateTrainingJob", {"Rolearn": "r", **{name: value for name, value in GOOD.items() if name != "RoleArn"}}
        )


@pytest.mark.parametrize(
    ("region", "suffix"),
    [
        ("us-east-1", "amazonaws.com"),
        ("eu-central-1", "amazonaws.com"),
        ("us-gov-west-1", "amazonaws.com"),
        ("cn-north-1", "amazonaws.com.cn"),
        ("us-iso-east-1", "c2s.ic.gov"),
        ("us-isob-east-1", "sc2s.sgov.gov"),
        ("eu-isoe-west-1", "cloud.adc-e.uk"),
        ("us-isof-south-1", "csp.hci.ic.gov"),
        ("eusc-de-east-1", "amazonaws.eu"),
        ("eu-west-99", "amazonaws.com"),  # a region newer than botocore
    ],
)
def test_suffix_of_each_partition(region: str, suffix: str) -> None:
    assert partition_suffix(region) == suffix


def test_a_missing_botocore_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.validate", None)
    with pytest.raises(
        UserError, match=r"need boto3 .*; run pip install -e '\.\[sagemaker\]' in the frcnn repository$"
    ):
        check_request("CreateTrainingJob", GOOD)


def test_unknown_region() -> None:
    with pytest.raises(UserError, match="region 'us_east_1' is not an AWS region"):
        partition_suffix("us_east_1")
