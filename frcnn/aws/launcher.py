"""Starts and watches training, tuning and transform jobs; for the notebook and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frcnn.aws.account import call_aws
from frcnn.aws.endpoint_client import EndpointClient
from frcnn.aws.model_package import ModelPackage
from frcnn.aws.s3_uri import folder_uri, is_junk, split_uri
from frcnn.aws.training_job import TrainingJob
from frcnn.aws.transform import Transform
from frcnn.aws.tuning_job import TuningJob
from frcnn.errors import UserError
from frcnn.weights.published import cache_folder, is_published
from frcnn.weights.score_thresholds import ScoreThresholds

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_FINAL_STATES = ("Completed", "Failed", "Stopped")


def check_weights(job: TrainingJob) -> None:
    """Check that a job's ``weights`` name published weights or an existing folder, before anything is downloaded.

    Raises:
        UserError: neither.
    """
    source = job.weights_source()
    if source and not is_published(source) and not Path(source).is_dir():
        raise UserError(
            f"weights are {source!r}; expected a model folder, or a name that frcnn fetch-weights --list prints"
        )


class Launcher(EndpointClient):
    """An account in which jobs and endpoints are started."""

    def start(self, job: TrainingJob) -> str:
        """Upload the job's weights, if it has any, and create it; returns its name.

        Raises:
            UserError: the request is invalid, published weights cannot be downloaded, or AWS rejects a call.
        """
        request = job.request_for_aws()
        self.track("folder", f"{job.output.rstrip('/')}/{job.name}")
        self.upload_weights(job)
        call_aws(self.client("sagemaker").create_training_job, **request)
        return job.name

    def start_tuning(self, tuning: TuningJob) -> str:
        """Create a hyperparameter tuning job; returns its name.

        Raises:
            UserError: the request is invalid, or AWS rejects it.
        """
        request = tuning.request()
        self.upload_weights(tuning.training_job())
        call_aws(self.client("sagemaker").create_hyper_parameter_tuning_job, **request)
        return tuning.name

    def follow_tuning(self, name: str, seconds: float = 60) -> Iterator[str]:
        """Yield a tuning job's counts of trials as they change, and its best trial at the end.

        Raises:
            UserError: the job fails; the message is its failure reason.
        """
        sagemaker, last = self.client("sagemaker"), ""
        while True:
            job = call_aws(sagemaker.describe_hyper_parameter_tuning_job, HyperParameterTuningJobName=name)
            status = job["HyperParameterTuningJobStatus"]
            counts = job.get("TrainingJobStatusCounters", {})
            line = f"== {status}: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            if line != last:
                yield line
                last = line
            if status in _FINAL_STATES:
                break
            time.sleep(seconds)
        if status == "Failed":
            raise UserError(f"tuning job {name} failed: {job.get('FailureReason', 'no reason given')}")
        if best := job.get("BestTrainingJob"):
            result = best.get("FinalHyperParameterTuningJobObjectiveMetric", {})
            tuned = ", ".join(f"{option}={value}" for option, value in best.get("TunedHyperParameters", {}).items())
            yield f"== best: {best['TrainingJobName']} {result.get('MetricName')}={result.get('Value')} with {tuned}"

    def register(
        self,
        package: ModelPackage,
        metrics: dict[str, Any],
        class_names: list[str],
        thresholds: ScoreThresholds | None = None,
    ) -> str:
        """Create a version in the model registry, and its group if it does not exist; returns its ARN.

        Raises:
            UserError: a request is invalid, or AWS rejects it.
        """
        request, group, sagemaker = (
            package.request(metrics, class_names, thresholds),
            package.group_request(),
            self.client("sagemaker"),
        )
        try:
            call_aws(sagemaker.describe_model_package_group, ModelPackageGroupName=package.group)
        except UserError as error:
            if "does not exist" not in str(error):
                raise
            call_aws(sagemaker.create_model_package_group, **group)
        if "ModelMetrics" in request:
            bucket, key = split_uri(package.statistics_uri())
            call_aws(self.client("s3").put_object, Bucket=bucket, Key=key, Body=json.dumps(metrics).encode())
        return str(call_aws(sagemaker.create_model_package, **request)["ModelPackageArn"])

    def upload_weights(self, job: TrainingJob) -> None:
        """Fetch and upload what ``weights`` of a job names, for its channel.

        Raises:
            UserError: the weights cannot be downloaded or do not exist, or AWS rejects the upload.
        """
        check_weights(job)
        source = job.weights_source()
        if source is None:
            return
        folder = Path(source)
        if is_published(source):
            folder = cache_folder() / source
            if not folder.is_dir():
                from frcnn.weights.download import fetch_file, import_published

                import_published(source, fetch_file(source), folder)
        self.upload(folder, job.weights_uri())

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
