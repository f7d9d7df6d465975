"""``frcnn jobs`` against moto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from moto import mock_aws

from frcnn.aws.endpoint import Endpoint, Variant
from frcnn.aws.launcher import Launcher
from frcnn.aws.training_job import TrainingJob
from frcnn.cli import main

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1"
ROLE = "arn:aws:iam::123456789012:role/frcnn"


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        yield Launcher("us-east-1", tmp_path / "ledger.json")


def test_jobs_and_endpoints_and_what_is_billed(launcher: Launcher) -> None:
    fields = {"image": IMAGE, "role": ROLE, "channels": {"training": "s3://bucket/d"}, "output": "s3://bucket/o"}
    for name in ("j-1", "j-2"):
        launcher.start(TrainingJob(name=name, **fields))
    variant = Variant(model="s3://bucket/a.tar.gz", instance_type="ml.m5.large")
    launcher.deploy(Endpoint(name="e", image=IMAGE, role=ROLE, variants=[variant]))
    arguments = ["jobs", "--region", "us-east-1", "--kind", "training", "--kind", "endpoint", "--json", "jobs.json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert {(line[0], line[1], line[-1]) for line in lines[:-1]} == {
        ("training", "Completed", "j-1"),
        ("training", "Completed", "j-2"),
        ("endpoint", "InService", "e"),
    }
    assert result.stdout.endswith("billed now: e\n")
    assert {entry["name"]: entry["billed"] for entry in json.loads(Path("jobs.json").read_text())} == {
        "j-1": False,
        "j-2": False,
        "e": True,
    }


def test_a_dry_run_needs_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["jobs", "--dry-run", "--limit", "3"])
    assert [request[0]["MaxResults"] for request in json.loads(result.stdout).values()] == [3, 3, 3, 3]
