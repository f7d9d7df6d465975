"""Send requests to SageMaker, wait for jobs and endpoints, and invoke endpoints; for the notebook and the CLI.

``training_job``, ``endpoint`` and ``transform`` of this package build the requests, which needs no account.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from frcnn.aws.account import AwsAccount, call_aws
from frcnn.aws.endpoint import Endpoint, Model
from frcnn.aws.instances import LOCAL
from frcnn.aws.invocation import InvokeResult, invoke_request
from frcnn.aws.s3_uri import folder_uri, is_junk
from frcnn.aws.training_job import TrainingJob
from frcnn.aws.transform import Transform
from frcnn.errors import UserError

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_FINAL_STATES = ("Completed", "Failed", "Stopped")


def cost(instances: int, instance_type: str, hours: float, price_per_hour: float | None = None) -> str:
    """Maximum cost in instance hours, and in money if the hourly price is given (aws.amazon.com/sagemaker/pricing)."""
    if instance_type in LOCAL:
        return "nothing, it runs on this machine"
    spent = instances * hours
    text = f"{instances} x {instance_type} for {hours:g} h: {spent:g} instance hours"
    return text + (
        f", {spent * price_per_hour:.2f} at {price_per_hour:g} per hour" if price_per_hour is not None else ""
    )


class Launcher(AwsAccount):
    """An account in which jobs and endpoints are started."""

    def start(self, job: TrainingJob) -> str:
        """Create a training job; returns its name.

        Raises:
            UserError: the request is invalid, or AWS rejects it.
        """
        call_aws(self.client("sagemaker").create_training_job, **job.request_for_aws())
        self.track("folder", f"{job.output.rstrip('/')}/{job.name}")
        return job.name

    def follow(self, name: str, seconds: float = 15) -> Iterator[str]:
        """Yield a training job's status changes and the log lines of its hosts until it ends.

        Raises:
            UserError: the job fails; the message is its failure reason.
        """
        sagemaker, last_status = self.client("sagemaker"), ""
        tokens: dict[str, str] = {}
        while True:
            job = call_aws(sagemaker.describe_training_job, TrainingJobName=name)
            status = f"{job['TrainingJobStatus']}: {job.get('SecondaryStatus', '')}"
            if status != last_status:
                yield f"== {status}"
                last_status = status
            yield from self._log_lines(name, tokens)
            if job["TrainingJobStatus"] in _FINAL_STATES:
                break
            time.sleep(seconds)
        if job["TrainingJobStatus"] == "Failed":
            raise UserError(f"training job {name} failed: {job.get('FailureReason', 'no reason given; see its log')}")
        if {"TrainingTimeInSeconds", "BillableTimeInSeconds"} <= job.keys():
            yield f"== {job['TrainingTimeInSeconds']} s of training, {job['BillableTimeInSeconds']} s billed per host"

    def artifact(self, name: str) -> str:
        """S3 address of a training job's model."""
        job = call_aws(self.client("sagemaker").describe_training_job, TrainingJobName=name)
        return str(job["ModelArtifacts"]["S3ModelArtifacts"])

    def deploy(self, models: list[Model], endpoint: Endpoint) -> str:
        """Create models, endpoint configuration and endpoint, and wait until it is in service; returns its name.

        Raises:
            UserError: a request is invalid, AWS rejects it, or the endpoint fails: its failure reason.
        """
        sagemaker = self.client("sagemaker")
        requests = [model.request() for model in models]
        config, request = endpoint.config_request(), endpoint.request()
        for model in requests:
            self.track("model", model["ModelName"])
            call_aws(sagemaker.create_model, **model)
        self.track("endpoint configuration", endpoint.name)
        call_aws(sagemaker.create_endpoint_config, **config)
        self.track("endpoint", endpoint.name)
        call_aws(sagemaker.create_endpoint, **request)
        try:
            call_aws(sagemaker.get_waiter("endpoint_in_service").wait, EndpointName=endpoint.name)
        except UserError as error:
            reason = call_aws(sagemaker.describe_endpoint, EndpointName=endpoint.name).get("FailureReason", str(error))
            raise UserError(f"endpoint {endpoint.name} failed to start: {reason}") from error
        return endpoint.name

    def invoke(self, endpoint: str, body: bytes, **options: Any) -> InvokeResult:
        """Send an image to an endpoint; keyword arguments are those of ``invoke_request``.

        Raises:
            UserError: the request is invalid, or the container rejects it: its message.
        """
        runtime = self.client("sagemaker-runtime")
        response = call_aws(runtime.invoke_endpoint, **invoke_request(endpoint, body, **options))
        variant = response.get("InvokedProductionVariant", "")
        return InvokeResult(response["Body"].read(), response["ContentType"], variant)

    def transform(self, transform: Transform, seconds: float = 15) -> str:
        """Run a batch transform and wait for its end; returns the S3 folder of the responses.

        The clean-up deletes that folder unless it existed before.

        Raises:
            UserError: the request is invalid, AWS rejects it, or the job fails: its failure reason.
        """
        sagemaker = self.client("sagemaker")
        request = transform.request()
        self._check_transform_input(transform.input)
        if not self.objects(transform.output):
            self.track("folder", transform.output)
        call_aws(sagemaker.create_transform_job, **request)
        while True:
            job = call_aws(sagemaker.describe_transform_job, TransformJobName=transform.name)
            if job["TransformJobStatus"] in _FINAL_STATES:
                break
            time.sleep(seconds)
        status, reason = job["TransformJobStatus"], job.get("FailureReason", "no reason given")
        if status != "Completed":
            raise UserError(f"transform job {transform.name} ended with status {status}: {reason}")
        return transform.output

    def _check_transform_input(self, uri: str) -> None:
        """Find out in a second what would fail a transform job after minutes: it sends every object to the model."""
        found = self.files(folder_uri(uri))
        if not found:
            raise UserError(f"{uri} does not exist or is empty; expected an S3 folder of images")
        if junk := [key for key in found if is_junk(key)]:
            raise UserError(
                f"{uri} contains {len(junk)} files that are not images, first {junk[0]!r}, and the model rejects them; "
                "delete them in S3"
            )

    def _log_lines(self, name: str, tokens: dict[str, str]) -> Iterator[str]:
        """New lines of a job's log streams; ``tokens`` keeps the read position of each stream."""
        logs = self.client("logs")
        streams = logs.get_paginator("describe_log_streams")
        try:
            pages = list(streams.paginate(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/"))
        except logs.exceptions.ResourceNotFoundException:  # no job of this account has ever logged
            return
        for stream in sorted(entry["logStreamName"] for page in pages for entry in page["logStreams"]):
            host = stream.partition("/")[2].rpartition("-")[0]
            while True:
                position = {"nextToken": tokens[stream]} if stream in tokens else {}
                page = call_aws(
                    logs.get_log_events, logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **position
                )
                yield from (f"{host} {event['message']}" for event in page["events"])
                if page["nextForwardToken"] == tokens.get(stream):
                    break
                tokens[stream] = page["nextForwardToken"]
