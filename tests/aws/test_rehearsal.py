"""Failures and S3 prefixes in a rehearsal; tests/test_notebook.py runs all of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from frcnn.aws.endpoint import Endpoint, Variant
from frcnn.aws.rehearsal import Rehearsal
from frcnn.aws.training_job import TrainingJob
from frcnn.aws.transform import Transform
from frcnn.errors import UserError

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1"
ROLE = "arn:aws:iam::123456789012:role/frcnn"


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(tmp_path / "rehearsal")
    rehearsal.client("s3").create_bucket(Bucket="bucket")
    yield rehearsal
    rehearsal.close()


def test_a_failed_job_reports_its_failure_reason(rehearsal: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("no images")
    rehearsal.upload(tmp_path / "data", "s3://bucket/data")
    job = TrainingJob(
        name="j-1", image=IMAGE, role=ROLE, channels={"training": "s3://bucket/data"}, output="s3://bucket/out"
    )
    rehearsal.start(job)
    with pytest.raises(UserError, match=r"training job j-1 failed: .*annotation"):
        list(rehearsal.follow("j-1"))
    [log] = rehearsal.client("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")["logStreams"]
    assert log["logStreamName"] == "j-1/algo-1-0"


def test_a_channel_gets_every_object_with_its_prefix(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """A request with ``bccd`` would also select ``bccd-v2/`` and ``bccd.zip``; that of a job has ``bccd/``."""
    for key in ("bccd/train/1.jpg", "bccd/bccd/2.jpg", "bccd-v2/train/1.jpg", "bccd.zip", "a.json", "a.json.bak"):
        rehearsal.client("s3").put_object(Bucket="bucket", Key=key, Body=b"1")
    rehearsal.client("s3").put_object(
        Bucket="bucket", Key="bccd/", Body=b""
    )  # the console creates this for an empty folder
    channels = {"training": "s3://bucket/bccd", "annotations": "s3://bucket/a.json"}
    request = TrainingJob(name="j-1", image=IMAGE, role=ROLE, channels=channels, output="s3://bucket/out").request()

    def selected(folder: Path) -> dict[str, set[str]]:
        rehearsal._write_inputs(folder, request)
        data = folder / "input" / "data"
        return {
            name: {file.relative_to(data / name).as_posix() for file in (data / name).rglob("*.*")} for name in channels
        }

    assert selected(tmp_path / "ours") == {
        "training": {"train/1.jpg", "bccd/2.jpg"},
        "annotations": {"a.json", "a.json.bak"},
    }
    request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://bucket/bccd"
    found = {"train/1.jpg", "bccd/2.jpg", "bccd-v2/train/1.jpg", "bccd.zip"}
    assert selected(tmp_path / "theirs")["training"] == found


def test_a_model_that_does_not_load_reports_why(rehearsal: Rehearsal) -> None:
    rehearsal.client("s3").put_object(Bucket="bucket", Key="m/model.tar.gz", Body=b"no archive")
    variant = Variant(model="s3://bucket/m/model.tar.gz")
    with pytest.raises(UserError, match=r"the server of model e-main failed to start: .*model\.tar\.gz"):
        rehearsal.deploy(Endpoint(name="e", image=IMAGE, role=ROLE, variants=[variant]))
    with pytest.raises(UserError, match="endpoint e has no variant 'other'; expected one of main"):
        rehearsal.invoke("e", b"jpeg", variant="other")


@pytest.mark.parametrize(
    ("options", "requests", "accept"),
    [
        ({"content_type": "application/jsonlines"}, [b'{"a": 1}', b'{"a": 2}'], "application/jsonlines"),
        ({}, [b'{"a": 1}\n{"a": 2}\n'], "application/json"),
        ({"accept": "image/png"}, [b'{"a": 1}\n{"a": 2}\n'], "image/png"),
    ],
)
def test_a_transform_sends_the_requests_that_sagemaker_would(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], requests: list[bytes], accept: str
) -> None:
    """The server is replaced, to record the requests it gets."""
    rehearsal.client("s3").put_object(Bucket="bucket", Key="in/a", Body=b'{"a": 1}\n{"a": 2}\n')
    received: list[tuple[bytes, str]] = []

    def post(model: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        received.append((body, headers["Accept"]))
        return b"answer %d\n" % len(received), headers["Accept"]

    monkeypatch.setattr(rehearsal, "_serve", lambda models: None)
    monkeypatch.setattr(rehearsal, "_post", post)
    rehearsal.transform(Transform(name="t", model="m", input="s3://bucket/in", output="s3://bucket/out", **options))
    assert received == [(body, accept) for body in requests]
    written = rehearsal.client("s3").get_object(Bucket="bucket", Key="out/a.out")["Body"].read()
    assert written == b"".join(b"answer %d\n" % (number + 1) for number in range(len(requests)))


def test_a_missing_moto_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto", None)
    with pytest.raises(UserError, match=r"needs moto .*; run pip install -e '\.\[test\]' in the frcnn repository$"):
        Rehearsal(tmp_path)


def test_close_detaches_moto(tmp_path: Path) -> None:
    before = boto3.DEFAULT_SESSION
    rehearsal = Rehearsal(tmp_path)
    rehearsal.close()
    rehearsal.close()
    assert rehearsal.created() == []
    assert boto3.DEFAULT_SESSION is before
