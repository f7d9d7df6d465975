"""Creates, scales, invokes and deletes endpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from frcnn.aws.account import AwsAccount, call_aws
from frcnn.aws.autoscaling import NAMESPACE, Call, alarm_name, resource_id
from frcnn.aws.endpoint import Endpoint, weights_request
from frcnn.aws.invocation import InvokeResult, invoke_async_request, invoke_request
from frcnn.aws.s3_uri import split_uri
from frcnn.errors import UserError

POLL_SECONDS = 2.0


class EndpointClient(AwsAccount):
    """An account with endpoints."""

    def deploy(self, endpoint: Endpoint) -> str:
        """Create models, endpoint configuration, endpoint and scaling, and wait until it is in service.

        Returns:
            the endpoint's name.

        Raises:
            UserError: a request is invalid, AWS rejects it, or the endpoint fails: its failure reason.
        """
        scaling = endpoint.scaling_calls()
        self._create(endpoint)
        sagemaker = self.client("sagemaker")
        try:
            call_aws(sagemaker.get_waiter("endpoint_in_service").wait, EndpointName=endpoint.name)
        except UserError as error:
            reason = call_aws(sagemaker.describe_endpoint, EndpointName=endpoint.name).get("FailureReason", str(error))
            raise UserError(
                f"endpoint {endpoint.name} failed to start: {reason}; to delete it: frcnn delete {endpoint.name}"
            ) from error
        self._scale(endpoint, scaling)
        return endpoint.name

    def shift(self, endpoint: str, weights: dict[str, float]) -> None:
        """Set the weights of an endpoint's variants, and wait until they apply.

        Raises:
            UserError: AWS rejects the request; there is no such endpoint or variant.
        """
        sagemaker = self.client("sagemaker")
        call_aws(sagemaker.update_endpoint_weights_and_capacities, **weights_request(endpoint, weights))
        call_aws(sagemaker.get_waiter("endpoint_in_service").wait, EndpointName=endpoint)

    def invoke(self, endpoint: str, body: bytes, **options: Any) -> InvokeResult:
        """Send an image to an endpoint; keyword arguments are those of ``invoke_request``.

        Raises:
            UserError: the request is invalid, or the container rejects it: its message.
        """
        runtime = self.client("sagemaker-runtime")
        response = call_aws(runtime.invoke_endpoint, **invoke_request(endpoint, body, **options))
        variant = response.get("InvokedProductionVariant", "")
        return InvokeResult(response["Body"].read(), response["ContentType"], variant)

    def invoke_async(self, endpoint: str, input_uri: str, timeout: float, **options: Any) -> InvokeResult:
        """Send an image in S3 to an asynchronous endpoint and wait for the response.

        Args:
            endpoint: its name.
            input_uri: S3 address of the encoded image.
            timeout: seconds to wait; an endpoint without instances takes minutes to start one.
            options: those of ``invoke_async_request``.

        Raises:
            UserError: the request is invalid, the container rejects it, or there is no response in time.
        """
        runtime, s3 = self.client("sagemaker-runtime"), self.client("s3")
        response = call_aws(runtime.invoke_endpoint_async, **invoke_async_request(endpoint, input_uri, **options))
        deadline = time.monotonic() + timeout
        while True:
            if body := self._read_object(s3, response["OutputLocation"]):
                return body
            if failure := self._read_object(s3, response.get("FailureLocation")):
                raise UserError(f"{input_uri} was rejected: {failure.body.decode(errors='replace')}")
            if time.monotonic() > deadline:
                raise UserError(
                    f"no response to {input_uri} after {timeout:g} s; it will be at {response['OutputLocation']}"
                )
            time.sleep(POLL_SECONDS)

    def delete_endpoint(self, name: str, *, keep_models: bool = False, dry_run: bool = False) -> Iterator[str]:
        """Delete an endpoint with its scaling, configuration and models; yields a line for each.

        Raises:
            UserError: there is no such endpoint, or AWS rejects a deletion.
        """
        sagemaker = self.client("sagemaker")
        config_name = call_aws(sagemaker.describe_endpoint, EndpointName=name)["EndpointConfigName"]
        config = call_aws(sagemaker.describe_endpoint_config, EndpointConfigName=config_name)
        variants = [variant["VariantName"] for variant in config["ProductionVariants"]]
        models = [] if keep_models else [variant["ModelName"] for variant in config["ProductionVariants"]]
        targets = call_aws(
            self.client("application-autoscaling").describe_scalable_targets,
            ServiceNamespace=NAMESPACE,
            ResourceIds=[resource_id(name, variant) for variant in variants],
        )["ScalableTargets"]
        alarms = call_aws(self.client("cloudwatch").describe_alarms, AlarmNames=[alarm_name(name)])["MetricAlarms"]
        resources = [
            *(("alarm", alarm["AlarmName"]) for alarm in alarms),
            *(("scaling target", target["ResourceId"]) for target in targets),
            ("endpoint", name),
            ("endpoint configuration", config_name),
            *(("model", model) for model in dict.fromkeys(models)),
        ]
        for kind, resource in resources:
            if not dry_run:
                self.delete(kind, resource)
                self.untrack(kind, resource)
            yield f"{'would delete' if dry_run else 'deleted'}: {kind} {resource}"

    def _create(self, endpoint: Endpoint) -> None:
        """Create models, configuration and endpoint; if one is rejected, delete those before it, so that the same
        call can be repeated, for example once a quota is raised."""
        sagemaker = self.client("sagemaker")
        steps = [
            *(("model", sagemaker.create_model, model.request()) for model in endpoint.models()),
            ("endpoint configuration", sagemaker.create_endpoint_config, endpoint.config_request()),
            ("endpoint", sagemaker.create_endpoint, endpoint.request()),
        ]
        created: list[tuple[str, str]] = []
        try:
            for kind, create, request in steps:
                name = request["ModelName"] if kind == "model" else endpoint.name
                self.track(kind, name)
                call_aws(create, **request)
                created.append((kind, name))
        except UserError:
            for kind, name in reversed(created):
                self.delete(kind, name)
                self.untrack(kind, name)
            raise

    def _scale(self, endpoint: Endpoint, calls: list[Call]) -> None:
        for call in calls:
            resource = call.request["ResourceId"]
            self.track("scaling target", resource)
            response = call_aws(getattr(self.client(call.service), call.operation), **call.request)
            if call.request.get("PolicyType") == "StepScaling":
                [variant] = endpoint.variants  # only asynchronous endpoints scale from zero, and these have one
                assert variant.autoscaling is not None
                alarm = variant.autoscaling.alarm_call(endpoint.name, response["PolicyARN"])
                self.track("alarm", alarm.request["AlarmName"])
                call_aws(getattr(self.client(alarm.service), alarm.operation), **alarm.request)

    def _read_object(self, s3: Any, uri: str | None) -> InvokeResult | None:
        """An S3 object, or None if it does not exist yet."""
        if not uri:
            return None
        bucket, key = split_uri(uri)
        try:
            found = s3.get_object(Bucket=bucket, Key=key)
        except s3.exceptions.NoSuchKey:
            return None
        return InvokeResult(found["Body"].read(), found.get("ContentType", ""), "")
