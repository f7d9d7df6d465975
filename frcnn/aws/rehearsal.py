"""The whole way through SageMaker without an account: AWS is moto, in this process; its containers are processes of this machine.

A job trains by the same code as in the image, with the folder that SageMaker would give it; an endpoint is ``frcnn serve``. So
what is shown is real but for AWS itself, and nothing is paid.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frcnn.aws.account import call_aws
from frcnn.aws.endpoint import Endpoint, Model, Transform, invoke_request
from frcnn.aws.launcher import LOG_GROUP, InvokeResult, Launcher
from frcnn.aws.s3_uri import split_uri
from frcnn.errors import UserError

START_SECONDS = 300
HOST = "algo-1"
KNOWN_TO_MOTO = "ml.m5.large"  # moto 5.2.5 lists the instance types of endpoints itself, and none of the last years'


class Rehearsal(Launcher):
    """A ``Launcher`` that needs neither network, nor credentials, nor Docker.

    Args:
        folder: for the channels, models and answers of the rehearsal.
        region: any of AWS's.

    Raises:
        UserError: moto is not installed.
    """

    def __init__(self, folder: Path, region: str = "us-east-1") -> None:
        try:
            from moto import mock_aws
        except ImportError as error:
            raise UserError(f"a rehearsal needs moto ({error}); pip install -e '.[test]' in frcnn's folder") from error
        self._aws = mock_aws()
        self._aws.start()
        self._servers: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self._draw = random.Random(0)
        self.folder = folder
        ledger = folder / "launched" / f"{folder.name}.json"
        ledger.unlink(missing_ok=True)  # moto forgets with the process what was made
        super().__init__(region, ledger)
        atexit.register(self.close)

    def close(self) -> None:
        """End the servers and give boto3 back to AWS."""
        for server, _ in self._servers.values():
            server.terminate()
            server.wait()
        self._servers.clear()
        if self._aws is not None:
            self._aws.stop()
            self._aws = None

    def follow(self, name: str, seconds: float = 0) -> Iterator[str]:
        """As the launcher's; the job runs when it is first followed.

        Raises:
            UserError: training failed; the message is what would be the job's failure reason.
        """
        if not (self.folder / name).exists():
            self._train(name)
        yield from super().follow(name, seconds)

    def deploy(self, models: list[Model], endpoint: Endpoint) -> str:
        """As the launcher's; each model is then served by a process of this machine."""
        endpoint.config_request()  # checks it as it is
        known = [variant.model_copy(update={"instance_type": KNOWN_TO_MOTO}) for variant in endpoint.variants]
        super().deploy(models, endpoint.model_copy(update={"variants": tuple(known)}))
        for variant in endpoint.variants:
            self._serve(variant.model)
        for variant in endpoint.variants:
            self._wait_for(variant.model)
        return endpoint.name

    def ask(self, endpoint: str, picture: bytes, **how: Any) -> InvokeResult:
        """As the launcher's; variants are drawn by their weights."""
        request = invoke_request(endpoint, picture, **how)
        described = call_aws(self.client("sagemaker").describe_endpoint_config, EndpointConfigName=endpoint)
        variants = {variant["VariantName"]: variant for variant in described["ProductionVariants"]}
        weights = [variant["InitialVariantWeight"] for variant in variants.values()]
        name = request.get("TargetVariant") or self._draw.choices(list(variants), weights)[0]
        if name not in variants:
            raise UserError(f"endpoint {endpoint} has no variant {name!r}; expected one of {', '.join(variants)}")
        headers = {"Content-Type": request["ContentType"], "Accept": request["Accept"]}
        if "CustomAttributes" in request:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = request["CustomAttributes"]
        body, content_type = self._post(variants[name]["ModelName"], picture, headers)
        return InvokeResult(body, content_type, name)

    def transform(self, transform: Transform, seconds: float = 0) -> str:
        """As the launcher's; every object, or every line of one, goes through a server of this machine."""
        super().transform(transform, seconds)
        self._serve(transform.model)
        self._wait_for(transform.model)
        job = call_aws(self.client("sagemaker").describe_transform_job, TransformJobName=transform.name)
        bucket, names = self._below(job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        out_bucket, out_prefix = split_uri(transform.output)
        s3, headers = self.client("s3"), {"Content-Type": transform.content_type, "Accept": transform.answer_type}
        for key, name in names.items():
            content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            records = content.splitlines() if transform.lines else [content]
            answers = b"".join(self._post(transform.model, record, headers)[0] for record in records)
            s3.put_object(Bucket=out_bucket, Key=f"{out_prefix.rstrip('/')}/{name}.out", Body=answers)
        return transform.output

    def clean_up(self, keep: tuple[str, ...] = (), run: str | None = None) -> Iterator[str]:
        """As the launcher's; servers end with their models."""
        for line in super().clean_up(keep, run):
            kind, _, name = line.removeprefix("removed: ").rpartition(" ")
            if kind == "model" and name in self._servers:
                server, _ = self._servers.pop(name)
                server.terminate()
                server.wait()
            yield line

    def _train(self, name: str) -> None:
        """Run a job's container as a process; its lines and its model go where SageMaker puts them."""
        job = call_aws(self.client("sagemaker").describe_training_job, TrainingJobName=name)
        base = self.folder / name
        self._lay_out(base, job)
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

    def _lay_out(self, base: Path, job: dict[str, Any]) -> None:
        """The folder that SageMaker gives a container, with the request's hyperparameters and channels."""
        for folder in ("input/config", "model", "output/data", "checkpoints"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        channels = {}
        for channel in job["InputDataConfig"]:
            source = channel["DataSource"]["S3DataSource"]
            self._fetch(*self._below(source["S3Uri"]), base / "input" / "data" / channel["ChannelName"])
            channels[channel["ChannelName"]] = {
                "TrainingInputMode": "File",
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": "None",
            }
        # One host, one process: several would be started by mpirun, over ssh.
        texts = {key: value for key, value in job["HyperParameters"].items() if not key.startswith("sagemaker_mpi_")}
        hosts = {"current_host": HOST, "hosts": [HOST], "network_interface_name": "lo"}
        for file, content in (("hyperparameters", texts), ("inputdataconfig", channels), ("resourceconfig", hosts)):
            (base / "input" / "config" / f"{file}.json").write_text(json.dumps(content))

    def _below(self, uri: str) -> tuple[str, dict[str, str]]:
        """Bucket, and the path of each object that a job gets for an address: of all whose keys begin with it, neighbours included."""
        bucket, prefix = split_uri(uri)
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
        if not keys:
            raise UserError(f"no object's key begins with {uri}")
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

    def _serve(self, model: str) -> None:
        """Start a server for a model's artifact, unless there is one."""
        if model in self._servers:
            return
        described = call_aws(self.client("sagemaker").describe_model, ModelName=model)
        folder = self.download(described["PrimaryContainer"]["ModelDataUrl"], self.folder / "served" / model)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "frcnn.cli",
            "serve",
            "--model",
            str(folder / "model.tar.gz"),
            "--port",
            str(port),
        ]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*command, "--no-nginx", "--no-page", "--variant", model], stdout=log, stderr=subprocess.STDOUT
            )
        self._servers[model] = (server, port)

    def _wait_for(self, model: str) -> None:
        server, port = self._servers[model]
        deadline = time.monotonic() + START_SECONDS
        while not self._answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "served" / model / "log").read_text(errors="replace")
                raise UserError(f"the server of model {model} did not come up: {log[-1024:]}")
            time.sleep(0.2)

    def _answers(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2) as ping:
                return bool(ping.status == 200)
        except OSError:
            return False

    def _post(self, model: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        address = f"http://127.0.0.1:{self._servers[model][1]}/invocations"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as answer:
                return answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as refused:
            raise UserError(
                f"the container refused with {refused.code}: {refused.read().decode(errors='replace')}"
            ) from refused
