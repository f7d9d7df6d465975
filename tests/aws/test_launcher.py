"""Jobs and endpoints against moto, and ``frcnn launch-job``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from moto import mock_aws

from frcnn.aws.cost import cost
from frcnn.aws.launcher import LOG_GROUP, Launcher
from frcnn.aws.training_job import TrainingJob
from frcnn.aws.transform import Transform
from frcnn.cli import main
from frcnn.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = sorted((REPOSITORY / "configs" / "jobs").glob("*.yaml"))
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1"
ROLE = "arn:aws:iam::123456789012:role/frcnn"
JOB = TrainingJob(
    name="j-1", image=IMAGE, role=ROLE, channels={"training": "s3://bucket/data"}, output="s3://bucket/out"
)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with mock_aws():
        launcher = Launcher("us-east-1", tmp_path / "ledger.json")
        launcher.client("s3").create_bucket(Bucket="bucket")
        yield launcher


def put_log_lines(launcher: Launcher, stream: str, *lines: str) -> None:
    logs = launcher.client("logs")
    if not logs.describe_log_groups()["logGroups"]:
        logs.create_log_group(logGroupName=LOG_GROUP)
    logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
    events = [{"timestamp": int(1000 * time.time()) + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)


def test_a_job_is_created_and_its_log_followed(launcher: Launcher) -> None:
    assert launcher.start(JOB) == "j-1"
    described = launcher.client("sagemaker").describe_training_job(TrainingJobName="j-1")
    assert described["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert described["CheckpointConfig"] == {"S3Uri": "s3://bucket/out/j-1/checkpoints/"}
    put_log_lines(launcher, "j-1/algo-2-17", "two")
    put_log_lines(launcher, "j-1/algo-1-17", "one", "three")
    put_log_lines(launcher, "j-10/algo-1-17", "of another job")
    lines = list(launcher.follow("j-1"))
    assert lines[:4] == ["== Completed: Completed", "algo-1 one", "algo-1 three", "algo-2 two"]
    assert launcher.artifact("j-1") == JOB.artifact()
    assert ("folder", "s3://bucket/out/j-1") in launcher.created()


def put(launcher: Launcher, key: str) -> None:
    launcher.client("s3").put_object(Bucket="bucket", Key=key, Body=b"1")


def test_a_batch_transform(launcher: Launcher) -> None:
    put(launcher, "in/1.jpg")
    transform = Transform(name="t", model="m", input="s3://bucket/in", output="s3://bucket/answers")
    assert launcher.transform(transform) == "s3://bucket/answers"
    assert launcher.created() == [("folder", "s3://bucket/answers")]


def test_clean_up_keeps_a_transform_folder_that_existed_before(launcher: Launcher) -> None:
    put(launcher, "answers/theirs")
    put(launcher, "in/1.jpg")
    launcher.transform(Transform(name="t", model="m", input="s3://bucket/in", output="s3://bucket/answers"))
    assert launcher.created() == []
    assert list(launcher.clean_up()) == []
    assert set(launcher.objects("s3://bucket")) == {"answers/theirs", "in/1.jpg"}


def test_transform_inputs_that_would_fail_the_job(launcher: Launcher) -> None:
    transform = Transform(name="t", model="m", input="s3://bucket/in", output="s3://bucket/answers")
    put(launcher, "in/")
    put(launcher, "inventory/1.jpg")
    with pytest.raises(UserError, match="s3://bucket/in does not exist or is empty"):
        launcher.transform(transform)
    put(launcher, "in/1.jpg")
    put(launcher, "in/.DS_Store")
    with pytest.raises(UserError, match=r"contains 1 files that are not images, first 'in/\.DS_Store'"):
        launcher.transform(transform)
    assert launcher.client("sagemaker").list_transform_jobs()["TransformJobSummaries"] == []


def test_costs() -> None:
    assert cost(2, "ml.g5.xlarge", 1.5) == "2 x ml.g5.xlarge for 1.5 h: 3 instance hours"
    assert cost(2, "ml.g5.xlarge", 1.5, 1.4) == "2 x ml.g5.xlarge for 1.5 h: 3 instance hours, 4.20 at 1.4 per hour"
    assert cost(1, "local", 1) == "nothing, it runs on this machine"


def test_the_help_names_the_required_extra() -> None:
    words = " ".join(CliRunner().invoke(main, ["launch-job", "--help"]).output.split())
    assert "boto3 (pip install -e '.[sagemaker]')" in words


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_dry_runs_of_the_example_jobs_need_no_account(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    result = CliRunner().invoke(
        main, ["launch-job", "--config", str(file), "--dry-run", "name=other-1", "hyperparameters.training.epochs=3"]
    )
    assert result.exit_code == 0, result.output
    request = json.loads(result.stdout)
    assert request["TrainingJobName"] == "other-1"
    assert request["HyperParameters"]["training.epochs"] == "3"
    assert "maximum cost:" in result.stderr


def test_launch_job_starts_a_job(launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB.model_dump(mode="json", exclude_defaults=True)))
    result = CliRunner().invoke(main, ["launch-job", "--config", "job.yaml", "--follow"])
    assert result.stdout.startswith("training job: j-1\nmodel: s3://bucket/out/j-1/output/model.tar.gz\n== Completed")
    assert launcher.client("sagemaker").describe_training_job(TrainingJobName="j-1")["TrainingJobStatus"] == "Completed"


def test_weights_are_uploaded_before_the_job_starts(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRCNN_WEIGHTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "cache" / "resnet50", tmp_path / "own"):
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(folder.name.encode())
    fields = JOB.model_dump(exclude_defaults=True)
    for name in ("resnet50", "own"):
        launcher.start(TrainingJob(**{**fields, "name": f"j-{name}", "weights": name}))
        launcher.download(f"s3://bucket/out/j-{name}/weights", tmp_path / "sent" / name)
        assert (tmp_path / "sent" / name / "weights.safetensors").read_bytes() == name.encode()
    with pytest.raises(UserError, match="weights are 'none'; expected a model folder, or a name"):
        launcher.start(TrainingJob(**{**fields, "name": "j-none", "weights": "none"}))
    jobs = launcher.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    assert {entry["TrainingJobName"] for entry in jobs} == {"j-resnet50", "j-own"}
