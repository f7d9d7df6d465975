"""Requests for tuning jobs, against the schema and moto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from moto import mock_aws

from frcnn.aws.launcher import Launcher
from frcnn.aws.training_job import TrainingJob
from frcnn.aws.tuning_job import TuningJob
from frcnn.cli import main
from frcnn.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
JOB: dict[str, Any] = {
    "name": "cells",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1",
    "role": "arn:aws:iam::123456789012:role/frcnn",
    "channels": {"training": "s3://bucket/bccd"},
    "output": "s3://bucket/runs",
    "hyperparameters": {"training.epochs": 3, "optimizer.learning_rate": 0.01},
}
RATE = {"min": 0.001, "max": 0.1, "scale": "Logarithmic"}


def tuning(job: dict[str, Any] | None = None, **fields: Any) -> TuningJob:
    ranges = fields.pop("ranges", {"optimizer.learning_rate": RATE})
    return TuningJob(name="t-1", job=TrainingJob(**{**JOB, **(job or {})}), ranges=ranges, **fields)


def test_ranges_by_the_type_of_the_option() -> None:
    request = tuning(
        ranges={
            "optimizer.learning_rate": RATE,
            "rpn.samples": {"min": 64, "max": 256},
            "optimizer.schedule": {"values": ["multistep", "cosine"]},
            "image.min_size": {"values": [[64], [96]]},
        }
    ).request()
    assert request["HyperParameterTuningJobConfig"]["ParameterRanges"] == {
        "ContinuousParameterRanges": [
            {"Name": "optimizer.learning_rate", "MinValue": "0.001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
        ],
        "IntegerParameterRanges": [{"Name": "rpn.samples", "MinValue": "64", "MaxValue": "256", "ScalingType": "Auto"}],
        "CategoricalParameterRanges": [
            {"Name": "optimizer.schedule", "Values": ["multistep", "cosine"]},
            {"Name": "image.min_size", "Values": ["[64]", "[96]"]},
        ],
    }
    assert request["TrainingJobDefinition"]["StaticHyperParameters"] == {"training.epochs": "3"}  # not the tuned one


def test_the_complete_request() -> None:
    request = tuning(max_jobs=6, max_parallel=3, tags={"a": "b"}).request()
    definition = request.pop("TrainingJobDefinition")
    assert definition["StaticHyperParameters"] == {"training.epochs": "3"}
    assert "CheckpointConfig" not in definition
    names = {metric["Name"] for metric in definition["AlgorithmSpecification"]["MetricDefinitions"]}
    assert "evaluation:best_AP" in names
    config = request.pop("HyperParameterTuningJobConfig")
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Maximize", "MetricName": "evaluation:best_AP"}
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 3}
    assert config["TrainingJobEarlyStoppingType"] == "Auto"
    assert request == {"HyperParameterTuningJobName": "t-1", "Tags": [{"Key": "a", "Value": "b"}]}


def test_spot_trials_have_checkpoints() -> None:
    definition = tuning({"spot": True, "checkpoints": "s3://bucket/ck"}).request()["TrainingJobDefinition"]
    assert definition["CheckpointConfig"] == {"S3Uri": "s3://bucket/runs/t-1/checkpoints/"}


def test_a_grid_counts_its_trials() -> None:
    ranges = {"training.epochs": {"values": [1, 2, 3]}, "optimizer.schedule": {"values": ["multistep", "cosine"]}}
    grid = tuning(strategy="Grid", ranges=ranges)
    assert grid.trials() == 6
    assert grid.request()["HyperParameterTuningJobConfig"]["ResourceLimits"] == {"MaxParallelTrainingJobs": 2}


@pytest.mark.parametrize(
    ("job", "fields", "message"),
    [
        ({}, {"ranges": {"optimizer.learning_rat": RATE}}, "range of 'optimizer.learning_rat': .* did you mean"),
        ({}, {"ranges": {"optimizer.learning_rate": {"min": -1, "max": 1}}}, "'optimizer.learning_rate' is -1"),
        ({}, {"ranges": {"optimizer.learning_rate": {"min": 1, "max": 0.1}}}, "min 1 is not less than max 0.1"),
        ({}, {"ranges": {"optimizer.learning_rate": {"min": 1}}}, "expected min and max, or values"),
        ({}, {"ranges": {"rpn.samples": {"min": 1.5, "max": 3}}}, "1.5 to 3; expected whole numbers"),
        ({}, {"ranges": {"training.batch_size": {"min": 2, "max": 8}}}, "expected a list of values, each a multiple"),
        (
            {"instance_type": "ml.g5.12xlarge", "hyperparameters": {"training.batch_size": 4}},
            {"ranges": {"training.batch_size": {"values": [4, 6]}}},
            "training.batch_size is 6 for 4 processes",
        ),
        ({}, {"ranges": {"optimizer.schedule": {"values": ["stepp"]}}}, "'optimizer.schedule' is 'stepp'"),
        ({}, {"ranges": {"data.root": {"values": ["/a"]}}}, "'data.root' is set by the container"),
        ({}, {"ranges": {}}, "ranges are empty"),
        ({}, {"objective": "AP"}, "objective is 'AP'; expected one of train:loss"),
        ({}, {"strategy": "Grid"}, "strategy Grid needs values"),
        ({"tensorboard": "s3://bucket/c"}, {}, "tensorboard of the job cannot be used in tuning"),
    ],
)
def test_error_messages(job: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tuning(job, **fields)


def test_the_example_is_dry_run_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    result = CliRunner().invoke(
        main, ["launch-tuning", "--config", "configs/tuning/bccd.yaml", "--dry-run", "--price", "1.5"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["HyperParameterTuningJobName"] == "bccd-tuning-1"
    assert "12 trials; maximum cost: 12 x ml.g5.2xlarge for 2 h: 24 instance hours, 36.00" in result.stderr


@mock_aws
def test_a_tuning_job_is_created_and_followed(tmp_path: Path) -> None:
    launcher = Launcher("us-east-1", tmp_path / "ledger.json")
    assert launcher.start_tuning(tuning()) == "t-1"
    described = launcher.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="t-1")
    assert described["HyperParameterTuningJobConfig"]["Strategy"] == "Bayesian"
    lines = list(launcher.follow_tuning("t-1", seconds=0))
    assert lines[0].startswith("== Completed")
