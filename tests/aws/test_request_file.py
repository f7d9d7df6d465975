"""YAML files of requests: names keep their characters, everything else gets the type of its option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from frcnn.aws.endpoint import Endpoint
from frcnn.aws.launcher import check_weights
from frcnn.aws.request_file import load_request
from frcnn.aws.training_job import TrainingJob
from frcnn.errors import UserError

JOB = """
name: cells-1
image: {repository: frcnn, tag: 1, account: 123456789012, region: us-east-1}
role: arn:aws:iam::123456789012:role/frcnn
channels: {training: s3://bucket/bccd}
output: s3://bucket/runs
"""
LINES = {line.partition(":")[0]: line for line in JOB.strip().splitlines()}


def load(tmp_path: Path, *overrides: str, **lines: str | None) -> TrainingJob:
    """The job above with lines replaced, added or (None) removed."""
    texts = {**LINES, **{name: text if text is None else f"{name}: {text}" for name, text in lines.items()}}
    (tmp_path / "job.yaml").write_text("\n".join(text for text in texts.values() if text is not None))
    return load_request(TrainingJob, tmp_path / "job.yaml", overrides)


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    ("tag", "account"),
    [("1.10", "123456789012"), ("1", "012345670123"), ("0x1F", "000000000001"), ("2026-11-25", "123456789012"),
     ("1e3", "123456789012"), ("1_0", "123456789012"), ("yes", "123456789012"), ("12.30.45", "123456789012")],
)  # fmt: skip
def test_names_keep_their_characters(tmp_path: Path, tag: str, account: str, quote: str) -> None:
    """YAML 1.1 would make numbers, dates or booleans of these."""
    image = f"{{repository: frcnn, tag: {quote}{tag}{quote}, account: {quote}{account}{quote}, region: us-east-1}}"
    assert load(tmp_path, image=image).image == f"{account}.dkr.ecr.us-east-1.amazonaws.com/frcnn:{tag}"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("name", "20261125", "20261125"),
        ("tags", "{version: 1.10, prod: yes, 2026: 007}", {"version": "1.10", "prod": "yes", "2026": "007"}),
        ("environment", "{A: 1, B: 0o17}", {"A": "1", "B": "0o17"}),
        ("instance_count", "2", 2),
        ("max_hours", "1.5", 1.5),
        ("spot", "true", True),
        ("spot", "yes", True),
        ("checkpoints", "null", None),
        ("checkpoints", "", None),
        ("volume_gb", '"200"', 200),
        ("mpi_options", "-x A=1", "-x A=1"),
    ],
)
def test_values_get_the_type_of_their_option(tmp_path: Path, field: str, text: str, value: Any) -> None:
    lines = {field: text, **({"hyperparameters": "{training.batch_size: 4}"} if field == "instance_count" else {})}
    assert getattr(load(tmp_path, **lines), field) == value


def test_values_in_sections_lists_and_hyperparameters(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        network="{subnets: [subnet-1, 0012], security_groups: [sg-1], isolated: true}",
        hyperparameters="{training.epochs: 3, image.min_size: [64, 96], optimizer.learning_rate: 1.0e-3}",
        channels="{train: {s3: s3://bucket/a, mode: FastFile}, annotations: s3://bucket/a.json}",
    )
    assert job.network.subnets == ("subnet-1", "0012")
    assert job.network.isolated is True
    assert job.hyperparameters == {
        "training.epochs": 3,
        "image.min_size": [64, 96],
        "optimizer.learning_rate": 0.001,
    }
    assert job.training_channels()["train"].mode == "FastFile"


def test_overrides(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        "name=1.10",
        "instance_count=2",
        "hyperparameters.training.epochs=7",
        "hyperparameters.training.batch_size=4",
        "network.isolated=true",
        "image.tag=1.20",
        "tags.version=1.0",
        hyperparameters="{training.epochs: 3}",
    )
    assert (job.name, job.instance_count, job.network.isolated) == ("1.10", 2, True)
    assert job.hyperparameters == {"training.epochs": 7, "training.batch_size": 4}
    assert job.image.endswith("/frcnn:1.20")
    assert job.tags == {"version": "1.0"}


def test_a_recipe_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.yaml").write_text("training: {epochs: 2}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path, recipe="recipe.yaml").config().training.epochs == 2


@pytest.mark.parametrize(
    ("lines", "overrides", "message"),
    [
        ({"nam": "a"}, [], "job.yaml: unknown option 'nam'; did you mean 'name'"),
        ({"name": None}, [], "job.yaml: option 'name' is missing"),
        ({"role": "[a]"}, [], r"option 'role' is \['a'\]; expected a text"),
        ({"instance_count": "two"}, [], "option 'instance_count' is 'two'; expected a valid integer"),
        ({"instance_count": "1.5"}, [], "option 'instance_count' is 1.5"),
        ({"spot": "maybe"}, [], "option 'spot' is 'maybe'; expected a valid boolean"),
        ({"channels": "s3://bucket/a"}, [], "option 'channels' is 's3://bucket/a'"),
        (
            {"channels": "{train: bucket/a}"},
            [],
            r"job.yaml: option 'channels.train' is 'bucket/a'; expected an S3 \S+ \S+ \S+ \S+$",
        ),
        (
            {"channels": "{train: {s3: s3://bucket/a, mode: Fast}}"},
            [],
            "job.yaml: option 'channels.train.mode' is 'Fast'; [^;]*$",
        ),
        ({"channels": "{train: {uri: s3://bucket/a}}"}, [], "option 'channels.train.s3' is missing; unknown option"),
        ({"channels": "{}"}, [], "option 'channels' is {}; expected at least one entry"),
        ({"channels": "{val: s3://bucket/a}"}, [], "channels val have no training data; add a channel 'training'"),
        (
            {"role": "frcnn"},
            [],
            "option 'role' is 'frcnn'; expected an ARN such as arn:aws:iam::123456789012:role/NAME",
        ),
        ({"tags": "&a {b: *a}"}, [], "is nested too deeply, or contains itself"),
        ({"network": "{subnet: [a]}"}, [], "unknown option 'network.subnet'; did you mean 'network.subnets'"),
        ({"image": "{repo: frcnn, tag: 1}"}, [], "image: option 'repository' is missing; unknown option 'repo'"),
        ({"image": "{repository: frcnn, tag: a/b, account: 1, region: us-east-1}"}, [], "tag 'a/b' is neither"),
        ({"image": "{repository: frcnn, tag: 1, account: 12345, region: us-east-1}"}, [], "account '12345' is not"),
        ({"image": "frcnn:1"}, [], "image 'frcnn:1' is not in Amazon ECR"),
        ({"tags": "[a, b]"}, [], r"option 'tags' is \['a', 'b'\]"),
        ({"max_hours": "-1"}, [], "option 'max_hours' is -1"),
        ({"name": "a\nname: b"}, [], "duplicate key 'name'"),
        ({"name": "[a"}, [], "job.yaml is not valid YAML: line"),
        ({}, ["instance_count"], "'instance_count' is not of the form FIELD=VALUE"),
        ({}, ["instance_cont=2"], "unknown option 'instance_cont'; did you mean 'instance_count'"),
        ({"hyperparameters": "3"}, ["hyperparameters.seed=1"], "'hyperparameters.seed' cannot be set: .* is '3'"),
    ],
)
def test_error_messages(tmp_path: Path, lines: dict[str, str | None], overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, *overrides, **lines)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml cannot be read"):
        load_request(TrainingJob, tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"list\.yaml contains a list"):
        load_request(TrainingJob, tmp_path / "list.yaml")
    (tmp_path / "text.yaml").write_text("hello\n")
    with pytest.raises(UserError, match=r"text\.yaml contains a single value; expected sections"):
        load_request(TrainingJob, tmp_path / "text.yaml")


def test_the_length_of_a_list_is_not_reported_for_a_bad_entry() -> None:
    values = {"name": "cells", "variants": [{"model": "s3://bucket/m.tar.gz", "instance_type": ["a"]}]}
    with pytest.raises(UserError) as error:
        Endpoint.from_tree(values, "e.yaml")
    assert str(error.value) == "e.yaml: option 'variants[0].instance_type' is ['a']; expected a text"


def test_weights_must_exist_before_a_job_starts(tmp_path: Path) -> None:
    job = load(tmp_path, weights="torchvision_v3")
    with pytest.raises(UserError, match="weights are 'torchvision_v3'; expected a model folder, or a name"):
        check_weights(job)
    check_weights(load(tmp_path, weights="torchvision_v2"))
