"""Automatic scaling of endpoint variants, for asynchronous endpoints down to no instance at all."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from frcnn.aws.service_model import check_request
from frcnn.config import Options

NAMESPACE = "sagemaker"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
METRICS = "AWS/SageMaker"
ALARM_SECONDS = 60


class Call(NamedTuple):
    """A request to AWS.

    Attributes:
        service: name of the service in boto3.
        operation: name of the client's method.
        request: its keyword arguments.
    """

    service: str
    operation: str
    request: dict[str, Any]

    def check(self) -> Call:
        """Check the request against the service model.

        Raises:
            UserError: a member is invalid.
        """
        operation = "".join(word.capitalize() for word in self.operation.split("_"))
        check_request(operation, self.request, self.service)
        return self


class Autoscaling(Options):
    """Number of instances that follows the load."""

    min_instances: Annotated[int, Field(ge=0)] = Field(1, description="0: only for asynchronous endpoints")
    max_instances: Annotated[int, Field(ge=1)] = Field(description="limit, and with it the maximum cost")
    invocations_per_minute: Annotated[float, Field(gt=0)] | None = Field(
        None, description="target per instance; for real-time endpoints"
    )
    backlog_per_instance: Annotated[float, Field(gt=0)] | None = Field(
        None, description="target number of waiting requests per instance; for asynchronous endpoints"
    )
    scale_in_seconds: Annotated[int, Field(ge=0)] = Field(300, description="wait between removals of instances")
    scale_out_seconds: Annotated[int, Field(ge=0)] = Field(60, description="wait between additions of instances")

    @model_validator(mode="after")
    def _check_consistency(self) -> Autoscaling:
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances {self.min_instances} exceeds max_instances {self.max_instances}")
        return self

    def check_endpoint(self, asynchronous: bool) -> None:
        """Check that the metric exists for this kind of endpoint.

        Raises:
            ValueError: it does not, or the endpoint cannot scale to zero.
        """
        wanted, other = ("backlog_per_instance", "invocations_per_minute")[:: 1 if asynchronous else -1]
        kind = "an asynchronous" if asynchronous else "a real-time"
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"autoscaling of {kind} endpoint needs {wanted}, and not {other}")
        if not self.min_instances and not asynchronous:
            raise ValueError("min_instances is 0, which only asynchronous endpoints support; set it to 1")

    def calls(self, endpoint: str, variant: str) -> list[Call]:
        """Requests that register the variant and scale it; :meth:`alarm_call` follows them if it scales to zero."""
        target = {"ServiceNamespace": NAMESPACE, "ResourceId": resource_id(endpoint, variant)}
        target["ScalableDimension"] = DIMENSION
        register = {**target, "MinCapacity": self.min_instances, "MaxCapacity": self.max_instances}
        follow = {
            **target,
            "PolicyName": f"{endpoint}-{variant}-load",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": self._tracking(endpoint),
        }
        calls = [
            Call("application-autoscaling", "register_scalable_target", register),
            Call("application-autoscaling", "put_scaling_policy", follow),
        ]
        if not self.min_instances:
            # Target tracking divides by the number of instances, so it cannot start the first one.
            start = {
                **target,
                "PolicyName": f"{endpoint}-{variant}-start",
                "PolicyType": "StepScaling",
                "StepScalingPolicyConfiguration": {
                    "AdjustmentType": "ChangeInCapacity",
                    "MetricAggregationType": "Average",
                    "Cooldown": self.scale_in_seconds,
                    "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
                },
            }
            calls.append(Call("application-autoscaling", "put_scaling_policy", start))
        return [call.check() for call in calls]

    def alarm_call(self, endpoint: str, policy_arn: str) -> Call:
        """Request for the alarm that starts the first instance when requests wait and none is there."""
        request = {
            "AlarmName": alarm_name(endpoint),
            "MetricName": "HasBacklogWithoutCapacity",
            "Namespace": METRICS,
            "Statistic": "Average",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
            "Period": ALARM_SECONDS,
            "EvaluationPeriods": 2,
            "DatapointsToAlarm": 2,
            "Threshold": 1.0,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "missing",
            "AlarmActions": [policy_arn],
        }
        return Call("cloudwatch", "put_metric_alarm", request).check()

    def _tracking(self, endpoint: str) -> dict[str, Any]:
        cooldowns = {"ScaleInCooldown": self.scale_in_seconds, "ScaleOutCooldown": self.scale_out_seconds}
        if self.invocations_per_minute is not None:
            metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
            return {
                "TargetValue": self.invocations_per_minute,
                "PredefinedMetricSpecification": metric,
                **cooldowns,
            }
        backlog = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": METRICS,
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
            "Statistic": "Average",
        }
        return {"TargetValue": self.backlog_per_instance, "CustomizedMetricSpecification": backlog, **cooldowns}


def resource_id(endpoint: str, variant: str) -> str:
    """A variant's name in Application Auto Scaling."""
    return f"endpoint/{endpoint}/variant/{variant}"


def alarm_name(endpoint: str) -> str:
    """Name of the alarm that starts an endpoint's first instance."""
    return f"{endpoint}-start"
