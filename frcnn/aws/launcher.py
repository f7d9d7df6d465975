"""Starting things on SageMaker: what the notebook and ``frcnn launch-job`` call.

``frcnn.aws.training_job`` and ``hosting`` make the requests, which need no account; this sends them, watches, and asks the endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from frcnn.aws.account import AwsAccount, call_aws
from frcnn.aws.endpoint import Endpoint, Model, Transform, Variant, invoke_request
from frcnn.aws.image_uri import get_image_uri
from frcnn.aws.instances import LOCAL
from frcnn.aws.training_job import TrainingChannel, TrainingJob
from frcnn.errors import UserError

__all__ = [
    "InvokeResult",
    "Endpoint",
    "Launcher",
    "Model",
    "TrainingChannel",
    "TrainingJob",
    "Transform",
    "Variant",
    "cost",
    "get_image_uri",
    "load_job",
]

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_ENDED = ("Completed", "Failed", "Stopped")


class InvokeResult(NamedTuple):
    """An endpoint's answer.

    Attributes:
        body: as the asked form has it.
        content_type: that form.
        variant: the one that answered.
    """

    body: bytes
    content_type: str
    variant: str


def cost(instances: int, instance_type: str, hours: float, price_per_hour: float | None = None) -> str:
    """What is paid at most, in instance hours, and in money where the price of one is given (aws.amazon.com/sagemaker/pricing)."""
    if instance_type in LOCAL:
        return "nothing, it runs on this machine"
    spent = instances * hours
    hours_text = f"{instances} x {instance_type} for {hours:g} h: {spent:g} instance hours"
    return hours_text + (
        f", {spent * price_per_hour:.2f} at {price_per_hour:g} an hour" if price_per_hour is not None else ""
    )


def load_job(file: Path, overrides: list[str] | None = None) -> TrainingJob:
    """A training job from a YAML file of ``TrainingJob``'s fields, with FIELD=VALUE overrides.

    ``image`` may be ``{repository, tag, account, region}``, of which ``get_image_uri`` makes the name. The recipe's path starts from the
    working directory or, if it is not there, from the file's folder.

    Raises:
        UserError: the file or a field is wrong.
    """
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"job file {file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise UserError(
            f"job file {file} holds a {type(fields).__name__}; expected fields such as name, image and channels"
        )
    for override in overrides or []:
        field, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is not of the form FIELD=VALUE, for example instance_count=2")
        section, dot, option = field.partition(".")
        if dot:  # hyperparameters.training.epochs=3
            if not isinstance(fields.get(section) or {}, dict):
                raise UserError(f"{field!r} cannot be set: {section} is {fields[section]!r}; expected fields below it")
            fields[section] = {**(fields.get(section) or {}), option: yaml.safe_load(text)}
        else:
            fields[field] = yaml.safe_load(text)
    image = fields.get("image")
    if isinstance(image, dict):
        if not {"repository", "tag"} <= image.keys() <= {"repository", "tag", "account", "region"}:
            raise UserError(
                f"image of {file} is {image}; expected repository and tag, and account and region where they are not configured"
            )
        fields["image"] = get_image_uri(**{name: str(value) for name, value in image.items()})
    recipe = fields.get("recipe")
    if isinstance(recipe, str) and not Path(recipe).exists() and (file.parent / recipe).exists():
        fields["recipe"] = file.parent / recipe
    return TrainingJob(**fields)


class Launcher(AwsAccount):
    """An account in which jobs and endpoints are started; each paid thing says so before, in ``cost``."""

    def start(self, job: TrainingJob) -> str:
        """Create the training job; its name.

        Raises:
            UserError: the request is wrong, or AWS refuses it.
        """
        call_aws(self.client("sagemaker").create_training_job, **job.request_for_aws())
        self.remember("folder", f"{job.output.rstrip('/')}/{job.name}")
        return job.name

    def follow(self, name: str, seconds: float = 15) -> Iterator[str]:
        """Lines of a training job as they come: its states, and what its hosts print.

        Raises:
            UserError: the job fails; the message is its failure reason.
        """
        sagemaker, seen = self.client("sagemaker"), ""
        tokens: dict[str, str] = {}
        while True:
            job = call_aws(sagemaker.describe_training_job, TrainingJobName=name)
            state = f"{job['TrainingJobStatus']}: {job.get('SecondaryStatus', '')}"
            if state != seen:
                yield f"== {state}"
                seen = state
            yield from self._log_lines(name, tokens)
            if job["TrainingJobStatus"] in _ENDED:
                break
            time.sleep(seconds)
        if job["TrainingJobStatus"] == "Failed":
            raise UserError(f"training job {name} failed: {job.get('FailureReason', 'no reason given; see its log')}")
        if {"TrainingTimeInSeconds", "BillableTimeInSeconds"} <= job.keys():
            yield f"== {job['TrainingTimeInSeconds']} s of training, {job['BillableTimeInSeconds']} s billed on each host"

    def artifact(self, name: str) -> str:
        """S3 address of the model that a training job left."""
        return str(
            call_aws(self.client("sagemaker").describe_training_job, TrainingJobName=name)["ModelArtifacts"][
                "S3ModelArtifacts"
            ]
        )

    def deploy(self, models: list[Model], endpoint: Endpoint) -> str:
        """Create models, endpoint configuration and endpoint, and wait until it answers; its name.

        Raises:
            UserError: a request is wrong, AWS refuses it, or the endpoint does not come up: its failure reason.
        """
        sagemaker = self.client("sagemaker")
        requests = [model.request() for model in models]
        config, request = endpoint.config_request(), endpoint.request()
        for model in requests:
            self.remember("model", model["ModelName"])
            call_aws(sagemaker.create_model, **model)
        self.remember("endpoint configuration", endpoint.name)
        call_aws(sagemaker.create_endpoint_config, **config)
        self.remember("endpoint", endpoint.name)
        call_aws(sagemaker.create_endpoint, **request)
        try:
            call_aws(sagemaker.get_waiter("endpoint_in_service").wait, EndpointName=endpoint.name)
        except UserError as failed:
            reason = call_aws(sagemaker.describe_endpoint, EndpointName=endpoint.name).get("FailureReason", str(failed))
            raise UserError(f"endpoint {endpoint.name} did not come up: {reason}") from failed
        return endpoint.name

    def ask(self, endpoint: str, picture: bytes, **how: Any) -> InvokeResult:
        """Send a picture to an endpoint; ``how`` is that of ``invoke_request``.

        Raises:
            UserError: the request is wrong, or the container refuses it: its own words.
        """
        answer = call_aws(self.client("sagemaker-runtime").invoke_endpoint, **invoke_request(endpoint, picture, **how))
        return InvokeResult(answer["Body"].read(), answer["ContentType"], answer.get("InvokedProductionVariant", ""))

    def transform(self, transform: Transform, seconds: float = 15) -> str:
        """Run a batch transform to its end; the S3 folder of the answers, which the clean-up removes unless it held something before.

        Raises:
            UserError: the request is wrong, AWS refuses it, or the job fails: its failure reason.
        """
        sagemaker = self.client("sagemaker")
        request = transform.request()
        if not self.objects(transform.output):
            self.remember("folder", transform.output)
        call_aws(sagemaker.create_transform_job, **request)
        while (job := call_aws(sagemaker.describe_transform_job, TransformJobName=transform.name))[
            "TransformJobStatus"
        ] not in _ENDED:
            time.sleep(seconds)
        status, reason = job["TransformJobStatus"], job.get("FailureReason", "no reason given")
        if status != "Completed":
            raise UserError(f"transform job {transform.name} ended as {status}: {reason}")
        return transform.output

    def _log_lines(self, name: str, tokens: dict[str, str]) -> Iterator[str]:
        """New lines of a job's log streams; ``tokens`` remembers per stream how far they were read."""
        logs = self.client("logs")
        try:
            pages = list(
                logs.get_paginator("describe_log_streams").paginate(
                    logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/"
                )
            )
        except logs.exceptions.ResourceNotFoundException:  # nothing was ever printed in this account
            return
        for stream in sorted(entry["logStreamName"] for page in pages for entry in page["logStreams"]):
            host = stream.partition("/")[2].rpartition("-")[0]
            while True:
                where = {"nextToken": tokens[stream]} if stream in tokens else {}
                page = call_aws(
                    logs.get_log_events, logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **where
                )
                yield from (f"{host} {event['message']}" for event in page["events"])
                if page["nextForwardToken"] == tokens.get(stream):
                    break
                tokens[stream] = page["nextForwardToken"]
