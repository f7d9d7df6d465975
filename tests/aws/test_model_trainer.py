"""SDK 3 sends the same request as ``TrainingJob``: the boto3 call is intercepted. Runs in SDK 3's own environment."""

from __future__ import annotations

from typing import Any

import boto3
import botocore.client
import pytest
from moto import mock_aws

from frcnn.aws.model_trainer import installed_sdk, model_trainer
from frcnn.aws.training_job import TrainingJob

pytestmark = pytest.mark.skipif(
    installed_sdk() != 3, reason="SageMaker's SDK 3 is not installed here; docs/local_mode.md says where it can be"
)
BASE: dict[str, Any] = {
    "name": "cells-1",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1",
    "role": "arn:aws:iam::123456789012:role/frcnn",
    "channels": {"training": "s3://bucket/bccd"},
    "output": "s3://bucket/runs",
}


@mock_aws
@pytest.mark.parametrize(
    "fields",
    [
        {
            "hyperparameters": {
                "training.epochs": 2,
                "optimizer.schedule": "cosine",
                "optimizer.clip_norm": None,
                "seed": "7",
            }
        },
        {
            "channels": {"train": {"s3": "s3://bucket/a", "mode": "FastFile"}, "annotations": "s3://bucket/b.json"},
            "instance_type": "ml.p4d.24xlarge",
            "instance_count": 2,
            "mpi_options": "-x A=1",
            "spot": True,
            "network": {"subnets": ["subnet-1"], "security_groups": ["sg-1"], "isolated": True},
            "encrypt_traffic": True,
            "tags": {"team": "vision"},
            "environment": {"A": "1"},
            "output_key": "alias/o",
            "tensorboard": "s3://bucket/curves",
            "remote_debug": True,
        },
        {"instance_type": "ml.p3.2xlarge", "keep_alive_minutes": 10, "disk_key": "alias/d", "compress_output": False},
    ],
)
def test_the_sdk_sends_our_request(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(
        "SAGEMAKER_VALIDATE_ROLE", "false"
    )  # it would ask IAM's policy simulator, which moto does not have
    sent: dict[str, Any] = {}
    call = botocore.client.BaseClient._make_api_call

    def catch(client: Any, operation: str, request: dict[str, Any]) -> Any:
        if operation == "CreateTrainingJob":
            sent.update(request)
        return call(client, operation, request)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", catch)
    job = TrainingJob(**{**BASE, **fields})
    model_trainer(job, boto3.session.Session(region_name="us-east-1")).train(wait=False)
    ours = job.request()
    assert sent.pop("TrainingJobName").startswith(f"{ours.pop('TrainingJobName')}-")  # the SDK adds the time
    assert (
        sent["CheckpointConfig"].pop("LocalPath") == "/opt/ml/checkpoints"
    )  # what SageMaker takes where none is named
    assert {name: _decoded(value) for name, value in sent.pop("HyperParameters").items()} == ours.pop("HyperParameters")
    assert sent == ours


def _decoded(text: str) -> str:
    """SDK 3 puts texts into JSON's quotes, as the container expects of it."""
    return text[1:-1] if text.startswith('"') else text
