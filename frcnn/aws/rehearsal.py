"""The whole workflow without an account: moto, in this process, replaces AWS, and local processes replace containers.

A job trains with the same code as in the image, in the folder layout that SageMaker provides; an endpoint is
``frcnn serve``. Everything but AWS itself is real, and nothing is billed.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frcnn.aws.account import call_aws
from frcnn.aws.endpoint import Endpoint
from frcnn.aws.invocation import InvokeResult, invoke_request
from frcnn.aws.launcher import LOG_GROUP, Launcher
from frcnn.aws.local_server import LocalServer
from frcnn.aws.s3_uri import is_folder_marker, split_uri
from frcnn.aws.transform import Transform
from frcnn.errors import UserError

HOST = "algo-1"
MOTO_INSTANCE_TYPE = "ml.m5.large"  # moto 5.2.5 has its own list of endpoint instance types, without recent ones


class Rehearsal(Launcher):
    """A ``Launcher`` that needs neither network, credentials nor Docker.

    Args:
        folder: for the channels, models and responses of the rehearsal.
        region: any AWS region.

    Raises:
        UserError: moto is not installed.
    """

    def __init__(self, folder: Path, region: str = "us-east-1") -> None:
        try:
            from moto import mock_aws
        except ImportError as error:
            raise UserError(
                f"a rehearsal needs moto ({error}); run pip install -e '.[test]' in the frcnn repository"
            ) from error
        self._aws = mock_aws()
        self._aws.start()
        self._servers: dict[str, LocalServer] = {}
        self._random = random.Random(0)
        self.folder = folder
        ledger = folder / "launched" / f"{folder.name}.json"
        ledger.unlink(missing_ok=True)  # moto's resources end with the process
        super().__init__(region, ledger)
        atexit.register(self.close)

    def close(self) -> None:
        """Stop the servers and detach moto from boto3."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
        if self._aws is not None:
            self._aws.stop()
            self._aws = None

    def follow(self, name: str, seconds: float = 0) -> Iterator[str]:
        """Like the launcher's; the first call runs the job.

        Raises:
            UserError: training failed; the message is the container's failure reason.
        """
        if not (self.folder / name).exists():
            self._train(name)
        yield from super().follow(name, seconds)

    def deploy(self, endpoint: Endpoint) -> str:
        """Like the launcher's; a local process serves each model."""
        config = endpoint.config_request()  # validates the real instance types
        known = [variant.model_copy(update={"instance_type": MOTO_INSTANCE_TYPE}) for variant in endpoint.variants]
        super().deploy(endpoint.model_copy(update={"variants": tuple(known)}))
        self._serve([variant["ModelName"] for variant in config["ProductionVariants"]])
        return endpoint.name

    def invoke(self, endpoint: str, body: bytes, **options: Any) -> InvokeResult:
        """Like the launcher's; variants are chosen by their weights."""
        request = invoke_request(endpoint, body, **options)
        config = call_aws(self.client("sagemaker").describe_endpoint_config, EndpointConfigName=endpoint)
        variants = {variant["VariantName"]: variant for variant in config["ProductionVariants"]}
        current = call_aws(self.client("sagemaker").describe_endpoint, EndpointName=endpoint)["ProductionVariants"]
        weights = [variant["DesiredWeight"] for variant in current]
        name = request.get("TargetVariant") or self._random.choices(list(variants), weights)[0]
        if name not in variants:
            raise UserError(f"endpoint {endpoint} has no variant {name!r}; expected one of {', '.join(variants)}")
        headers = {"Content-Type": request["ContentType"], "Accept": request["Accept"]}
        if "CustomAttributes" in request:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = request["CustomAttributes"]
        response, content_type = self._post(variants[name]["ModelName"], body, headers)
        return InvokeResult(response, content_type, name)

    def transform(self, transform: Transform, seconds: float = 0) -> str:
        """Like the launcher's; a local server answers each object, or each line of it."""
        super().transform(transform, seconds)
        job = call_aws(self.client("sagemaker").describe_transform_job, TransformJobName=transform.name)
        self._serve([job["ModelName"]])
        bucket, names = self._select(job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        out_bucket, out_prefix = split_uri(transform.output)
        s3, headers = self.client("s3"), {"Content-Type": transform.content_type, "Accept": transform.response_type}
        for key, name in names.items():
            content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            requests = content.splitlines() if transform.splits_lines else [content]
            responses = b"".join(self._post(job["ModelName"], request, headers)[0] for request in requests)
            s3.put_object(Bucket=out_bucket, Key=f"{out_prefix.rstrip('/')}/{name}.out", Body=responses)
        return transform.output

    def clean_up(self, keep: tuple[str, ...] = (), run: str | None = None) -> Iterator[str]:
        """Like the launcher's; stops the server of each deleted model."""
        for line in super().clean_up(keep, run):
            kind, _, name = line.removeprefix("deleted: ").rpartition(" ")
            if kind == "model" and name in self._servers:
                self._servers.pop(name).stop()
            yield line

    def _train(self, name: str) -> None:
        """Run a job's container as a process, and store its log and model where SageMaker does."""
        job = call_aws(self.client("sagemaker").describe_training_job, TrainingJobName=name)
        base = self.folder / name
        self._write_inputs(base, job)
        variables = {
            **os.environ,
            "SAGEMAKER_BASE_DIR": str(base.absolute()),
            "TRAINING_JOB_NAME": name,
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "frcnn.entrypoint", "train"]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._log(name, done.stdout.splitlines())
        if done.returncode:
            failure = base / "output" / "failure"
            reason = failure.read_text() if failure.exists() else done.stdout[-1024:]
            raise UserError(f"training job {name} failed: {reason}")
        output = job["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        for folder, archive in ((base / "model", "model.tar.gz"), (base / "output" / "data", "output.tar.gz")):
            bucket, key = split_uri(f"{output}/{name}/output/{archive}")
            with tarfile.open(self.folder / archive, "w:gz") as tar:
                tar.add(folder, arcname=".")
            self.client("s3").upload_file(Filename=str(self.folder / archive), Bucket=bucket, Key=key)

    def _write_inputs(self, base: Path, job: dict[str, Any]) -> None:
        """Fill a container's /opt/ml folder with the request's hyperparameters and channels."""
        for folder in ("input/config", "model", "output/data", "checkpoints"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        channels = {}
        for channel in job["InputDataConfig"]:
            source = channel["DataSource"]["S3DataSource"]
            self._fetch(*self._select(source["S3Uri"]), base / "input" / "data" / channel["ChannelName"])
            channels[channel["ChannelName"]] = {
                "TrainingInputMode": "File",
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": "None",
            }
        # One host with one process: more would be started by mpirun, over ssh.
        texts = {key: value for key, value in job["HyperParameters"].items() if not key.startswith("sagemaker_mpi_")}
        hosts = {"current_host": HOST, "hosts": [HOST], "network_interface_name": "lo"}
        for file, content in (("hyperparameters", texts), ("inputdataconfig", channels), ("resourceconfig", hosts)):
            (base / "input" / "config" / f"{file}.json").write_text(json.dumps(content))

    def _select(self, uri: str) -> tuple[str, dict[str, str]]:
        """Bucket, and local path by key, of every object whose key starts with an address, as SageMaker does it."""
        bucket, prefix = split_uri(uri)
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [
            entry["Key"] for page in pages for entry in page.get("Contents", []) if not is_folder_marker(entry["Key"])
        ]
        if not keys:
            raise UserError(f"no S3 object's key starts with {uri}")
        inside, beside = prefix if prefix.endswith("/") else f"{prefix}/", prefix[: prefix.rfind("/") + 1]
        return bucket, {key: key.removeprefix(inside if key.startswith(inside) else beside) for key in keys}

    def _log(self, name: str, lines: list[str]) -> None:
        logs, stream = self.client("logs"), f"{name}/{HOST}-0"
        if not logs.describe_log_groups(logGroupNamePrefix=LOG_GROUP)["logGroups"]:
            logs.create_log_group(logGroupName=LOG_GROUP)
        logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
        now = int(1000 * time.time())
        events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines) if line]
        if events:
            logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)

    def _serve(self, models: list[str]) -> None:
        """Start a server for each model that has none, and wait until all of them answer."""
        for model in models:
            if model not in self._servers:
                described = call_aws(self.client("sagemaker").describe_model, ModelName=model)
                folder = self.folder / "served" / model
                self.download(described["PrimaryContainer"]["ModelDataUrl"], folder)
                self._servers[model] = LocalServer(model, folder / "model.tar.gz", folder / "log")
        for model in models:
            self._servers[model].wait_until_healthy()

    def _post(self, model: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        return self._servers[model].post(body, headers)
