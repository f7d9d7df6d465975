"""Requests that scale an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from frcnn.aws.autoscaling import Autoscaling
from frcnn.aws.endpoint import Endpoint, Variant
from frcnn.errors import UserError

TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/e/variant/main",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
BACKLOG = {"max_instances": 2, "backlog_per_instance": 5}


def endpoint(scaling: dict[str, Any], **fields: Any) -> Endpoint:
    return Endpoint(name="e", variants=[Variant(model="m", autoscaling=scaling)], **fields)


def test_a_real_time_endpoint_follows_its_invocations() -> None:
    register, policy = endpoint({"max_instances": 4, "invocations_per_minute": 600}).scaling_calls()
    assert register == (
        "application-autoscaling",
        "register_scalable_target",
        {**TARGET, "MinCapacity": 1, "MaxCapacity": 4},
    )
    assert policy.request == {
        **TARGET,
        "PolicyName": "e-main-load",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": 600,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            "ScaleInCooldown": 300,
            "ScaleOutCooldown": 60,
        },
    }


def test_an_asynchronous_endpoint_scales_to_zero_and_back() -> None:
    scaling = {**BACKLOG, "min_instances": 0}
    register, load, start = endpoint(scaling, asynchronous={"output": "s3://bucket/o"}).scaling_calls()
    assert (register.request["MinCapacity"], register.request["MaxCapacity"]) == (0, 2)
    tracking = load.request["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["CustomizedMetricSpecification"] == {
        "MetricName": "ApproximateBacklogSizePerInstance",
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": "e"}],
        "Statistic": "Average",
    }
    assert start.request["StepScalingPolicyConfiguration"]["StepAdjustments"] == [
        {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    ]
    service, operation, alarm = Autoscaling(**scaling).alarm_call("e", "arn:policy")
    assert (service, operation) == ("cloudwatch", "put_metric_alarm")
    assert (alarm["MetricName"], alarm["AlarmActions"]) == ("HasBacklogWithoutCapacity", ["arn:policy"])


def test_one_instance_needs_no_alarm() -> None:
    calls = endpoint(BACKLOG, asynchronous={"output": "s3://bucket/o"}).scaling_calls()
    assert [call.operation for call in calls] == ["register_scalable_target", "put_scaling_policy"]


@pytest.mark.parametrize(
    ("scaling", "fields", "message"),
    [
        ({"max_instances": 2}, {}, "a real-time endpoint needs invocations_per_minute, and not backlog_per_instance"),
        (BACKLOG, {}, "a real-time endpoint needs invocations_per_minute"),
        (
            {"max_instances": 2, "invocations_per_minute": 1},
            {"asynchronous": {"output": "s3://bucket/o"}},
            "an asynchronous endpoint needs backlog_per_instance, and not invocations_per_minute",
        ),
        (
            {"min_instances": 0, "max_instances": 2, "invocations_per_minute": 1},
            {},
            "min_instances is 0, which only asynchronous endpoints support",
        ),
        ({"min_instances": 3, "max_instances": 2}, {}, "min_instances 3 exceeds max_instances 2"),
        ({"min_instances": 1}, {}, "max_instances"),
    ],
)
def test_error_messages(scaling: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        endpoint(scaling, **fields)
