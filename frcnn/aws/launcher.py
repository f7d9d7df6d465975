"""Starts and watches training, tuning and transform jobs; for the notebook and the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator

from frcnn.aws.account import call_aws
from frcnn.aws.endpoint_client import EndpointClient
from frcnn.aws.s3_uri import folder_uri, is_junk
from frcnn.aws.training_job import TrainingJob
from frcnn.aws.transform import Transform
from frcnn.errors import UserError

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_FINAL_STATES = ("Completed", "Failed", "Stopped")


class Launcher(EndpointClient):
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

    def transform(self, transform: Transform, seconds: float = 15) -> str:
        """Run a batch transform and wait for its end; returns the S3 folder of the responses.

        The clean-up deletes that folder unless it existed before.

        Raises:
            UserError: the request is invalid, AWS rejects it, or the job fails: its failure reason.
        """
        sagemaker = self.client("sagemaker")
        request, model = transform.request(), transform.create_model()
        self._check_transform_input(transform.input)
        if not self.objects(transform.output):
            self.track("folder", transform.output)
        if model:
            self.track("model", model.name)
            call_aws(sagemaker.create_model, **model.request())
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
