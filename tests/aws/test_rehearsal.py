"""What a rehearsal does where things fail; tests/test_notebook.py goes through the whole of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from frcnn.aws.endpoint import Endpoint, Model, Transform, Variant
from frcnn.aws.rehearsal import Rehearsal
from frcnn.aws.training_job import TrainingJob
from frcnn.errors import UserError

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1"
ROLE = "arn:aws:iam::123456789012:role/frcnn"


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(tmp_path / "rehearsal")
    rehearsal.client("s3").create_bucket(Bucket="bucket")
    yield rehearsal
    rehearsal.close()


def test_a_failed_job_says_what_its_container_says(rehearsal: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("no pictures")
    rehearsal.upload(tmp_path / "data", "s3://bucket/data")
    job = TrainingJob(
        name="j-1", image=IMAGE, role=ROLE, channels={"training": "s3://bucket/data"}, output="s3://bucket/out"
    )
    rehearsal.start(job)
    with pytest.raises(UserError, match=r"training job j-1 failed: .*annotation"):
        list(rehearsal.follow("j-1"))
    [log] = rehearsal.client("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")["logStreams"]
    assert log["logStreamName"] == "j-1/algo-1-0"


def test_a_job_gets_what_its_prefix_finds_as_in_s3(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """A request with ``bccd`` would bring ``bccd-v2/`` and ``bccd.zip`` too; that of a job says ``bccd/``."""
    for key in ("bccd/train/1.jpg", "bccd/bccd/2.jpg", "bccd-v2/train/1.jpg", "bccd.zip", "a.json", "a.json.bak"):
        rehearsal.client("s3").put_object(Bucket="bucket", Key=key, Body=b"1")
    rehearsal.client("s3").put_object(
        Bucket="bucket", Key="bccd/", Body=b""
    )  # what the console makes for an empty folder
    channels = {"training": "s3://bucket/bccd", "annotations": "s3://bucket/a.json"}
    request = TrainingJob(name="j-1", image=IMAGE, role=ROLE, channels=channels, output="s3://bucket/out").request()

    def given(folder: Path) -> dict[str, set[str]]:
        rehearsal._lay_out(folder, request)
        data = folder / "input" / "data"
        return {
            name: {file.relative_to(data / name).as_posix() for file in (data / name).rglob("*.*")} for name in channels
        }

    assert given(tmp_path / "ours") == {
        "training": {"train/1.jpg", "bccd/2.jpg"},
        "annotations": {"a.json", "a.json.bak"},
    }
    request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://bucket/bccd"
    found = {"train/1.jpg", "bccd/2.jpg", "bccd-v2/train/1.jpg", "bccd.zip"}
    assert given(tmp_path / "theirs")["training"] == found


def test_a_model_that_does_not_load_says_why(rehearsal: Rehearsal) -> None:
    rehearsal.client("s3").put_object(Bucket="bucket", Key="m/model.tar.gz", Body=b"no archive")
    model = Model(name="m", image=IMAGE, role=ROLE, artifact="s3://bucket/m/model.tar.gz")
    with pytest.raises(UserError, match=r"the server of model m did not come up: .*model\.tar\.gz"):
        rehearsal.deploy([model], Endpoint(name="e", variants=[Variant(model="m")]))
    with pytest.raises(UserError, match="endpoint e has no variant 'other'; expected one of m"):
        rehearsal.ask("e", b"jpeg", variant="other")


@pytest.mark.parametrize(
    ("how", "requests", "form"),
    [
        ({"content_type": "application/jsonlines"}, [b'{"a": 1}', b'{"a": 2}'], "application/jsonlines"),
        ({}, [b'{"a": 1}\n{"a": 2}\n'], "application/json"),
        ({"accept": "image/png"}, [b'{"a": 1}\n{"a": 2}\n'], "image/png"),
    ],
)
def test_a_transform_asks_as_sagemaker_would(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, how: dict[str, str], requests: list[bytes], form: str
) -> None:
    """The server is stood in for: which requests it gets is what counts here."""
    rehearsal.client("s3").put_object(Bucket="bucket", Key="in/a", Body=b'{"a": 1}\n{"a": 2}\n')
    asked: list[tuple[bytes, str]] = []

    def post(model: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        asked.append((body, headers["Accept"]))
        return b"answer %d\n" % len(asked), headers["Accept"]

    monkeypatch.setattr(rehearsal, "_serve", lambda model: None)
    monkeypatch.setattr(rehearsal, "_wait_for", lambda model: None)
    monkeypatch.setattr(rehearsal, "_post", post)
    rehearsal.transform(Transform(name="t", model="m", input="s3://bucket/in", output="s3://bucket/out", **how))
    assert asked == [(body, form) for body in requests]
    written = rehearsal.client("s3").get_object(Bucket="bucket", Key="out/a.out")["Body"].read()
    assert written == b"".join(b"answer %d\n" % (number + 1) for number in range(len(requests)))


def test_moto_is_asked_for_by_the_extra_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto", None)
    with pytest.raises(UserError, match=r"needs moto .*; pip install -e '\.\[test\]' in frcnn's folder$"):
        Rehearsal(tmp_path)


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    before = boto3.DEFAULT_SESSION
    rehearsal = Rehearsal(tmp_path)
    rehearsal.close()
    rehearsal.close()
    assert rehearsal.made() == []
    assert boto3.DEFAULT_SESSION is before
