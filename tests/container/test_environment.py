"""The contract's files and variables as the service, its SDKs and local mode write them, and invalid ones."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from frcnn.container.environment import Environment, ServingEnvironment
from frcnn.container.input_files import existing_interface
from frcnn.errors import UserError


def write(base: Path, **files: Any) -> dict[str, str]:
    """Config files by name; the variables to read them with."""
    folder = base / "input" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {"SAGEMAKER_BASE_DIR": str(base)}


# As in the log of a real job; the groups' order is the launcher's.
RESOURCES = {
    "current_group_name": "homogeneousCluster",
    "current_host": "algo-1",
    "current_instance_type": "ml.p4d.24xlarge",
    "hosts": ["algo-1", "algo-2", "algo-3"],
    "instance_groups": [
        {
            "instance_group_name": "homogeneousCluster",
            "instance_type": "ml.p4d.24xlarge",
            "hosts": ["algo-3", "algo-1", "algo-2"],
        }
    ],
    "network_interface_name": "ethwe",
    "topology": None,
}


def test_empty_base_is_one_host_without_channels(tmp_path: Path) -> None:
    environment = Environment.read({"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert (environment.options, environment.reserved, environment.channels) == ({}, {}, ())
    assert environment.resources.hosts == (socket.gethostname(),)
    assert environment.resources.is_leader
    assert environment.checkpoints is None
    assert Environment.read({}).base == Path("/opt/ml")


def test_resources_of_a_real_job(tmp_path: Path) -> None:
    variables = write(tmp_path, resourceconfig=RESOURCES)
    resources = Environment.read(variables).resources
    assert resources.hosts == ("algo-3", "algo-1", "algo-2")
    assert not resources.is_leader
    assert (resources.instance_type, resources.instance_types) == ("ml.p4d.24xlarge", ("ml.p4d.24xlarge",))
    assert resources.wanted_interface == "ethwe"
    assert (Path("/sys/class/net") / resources.interface).exists()


def test_missing_interface_is_replaced_by_the_default_routes(tmp_path: Path) -> None:
    for name in ("lo", "docker0", "ens5"):
        (tmp_path / "net" / name).mkdir(parents=True)
    routes = tmp_path / "route"
    routes.write_text("Iface\tDestination\tGateway\ndocker0\t000011AC\t00000000\nens5\t00000000\t01001FAC\n")
    assert existing_interface("docker0", tmp_path / "net", routes) == "docker0"
    assert existing_interface("ethwe", tmp_path / "net", routes) == "ens5"
    assert existing_interface("ethwe", tmp_path / "net", tmp_path / "none") == "docker0"
    assert existing_interface("ethwe", tmp_path / "nowhere", routes) == "ethwe"


def test_channels_are_read_from_the_file_not_the_folder(tmp_path: Path) -> None:
    (tmp_path / "input" / "data" / "val-set").mkdir(parents=True)
    (tmp_path / "input" / "data" / "train-manifest").write_text("{}")
    channels = {
        "val-set": {
            "TrainingInputMode": "FastFile",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        },
        "my.train_1": {
            "TrainingInputMode": "Pipe",
            "S3DistributionType": "ShardedByS3Key",
            "RecordWrapperType": "RecordIO",
        },
        "local": {},
    }
    found = {channel.name: channel for channel in Environment.read(write(tmp_path, inputdataconfig=channels)).channels}
    assert list(found) == ["local", "my.train_1", "val-set"]
    assert (found["val-set"].folder, found["val-set"].mode) == (tmp_path / "input" / "data" / "val-set", "FastFile")
    piped = found["my.train_1"]
    assert (piped.mode, piped.distribution, piped.record_wrapper) == ("Pipe", "ShardedByS3Key", "RecordIO")
    assert piped.pipe(3) == tmp_path / "input" / "data" / "my.train_1_3"
    assert (found["local"].mode, found["local"].distribution) == ("File", "FullyReplicated")


def test_reserved_hyperparameters_and_switches(tmp_path: Path) -> None:
    values = {
        "training.epochs": '"3"', "image.min_size": "(640, 800)", "backbone.name": '"resnet18"',
        "_tuning_objective_metric": '"AP"', "sagemaker_mpi_enabled": "False",
        "sagemaker_mpi_num_of_processes_per_host": '"8"', "sagemaker_program": '"mine.py"',
    }  # fmt: skip
    environment = Environment.read(write(tmp_path, hyperparameters=values))
    assert environment.options == {"training.epochs": "3", "image.min_size": "[640, 800]", "backbone.name": "resnet18"}
    assert environment.switch("sagemaker_mpi_enabled") is False
    assert environment.switch("sagemaker_absent") is None
    assert environment.number("sagemaker_mpi_num_of_processes_per_host") == 8
    assert environment.program == "mine.py"
    for text, expected in (
        ("true", True),
        ('"true"', True),
        ("True", True),
        ("1", True),
        ("0", False),
        ("null", False),
        ("", False),
    ):
        environment = Environment.read(write(tmp_path, hyperparameters={"sagemaker_mpi_enabled": text}))
        assert environment.switch("sagemaker_mpi_enabled") is expected
    environment = Environment.read(write(tmp_path, hyperparameters={"sagemaker_mpi_num_processes": "many"}))
    with pytest.raises(UserError, match="'sagemaker_mpi_num_processes' is 'many'; expected an integer"):
        environment.number("sagemaker_mpi_num_processes")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"hyperparameters": "{'a': 1}"}, r"hyperparameters.json is not valid JSON"),
        ({"hyperparameters": "[1]"}, r"hyperparameters.json contains a list; expected a JSON object"),
        ({"hyperparameters": ""}, r"hyperparameters.json is not valid JSON"),
        ({"hyperparameters": '{"a": ' + "[" * 100_000}, r"hyperparameters.json is not valid JSON"),
        ({"hyperparameters": '{"a": ' + "1" * 5000 + "}"}, r"hyperparameters.json is not valid JSON"),
        ({"inputdataconfig": {"train": "File"}}, r"channel 'train' is \"File\"; expected an object"),
        (
            {"inputdataconfig": {"train": {"TrainingInputMode": "Stream"}}},
            r"TrainingInputMode of channel 'train' is 'Stream'; .*FastFile",
        ),
        (
            {"resourceconfig": {"current_host": "algo-9", "hosts": ["algo-1"]}},
            r"a list of names with the current host 'algo-9'",
        ),
        ({"resourceconfig": {"instance_groups": "homogeneous"}}, r"'instance_groups' is \"homogeneous\""),
    ],
)
def test_invalid_files_are_reported(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    variables = write(tmp_path, **files)
    with pytest.raises(UserError, match=message) as caught:
        Environment.read(variables)
    assert re.search(r"input/config/\w+\.json", str(caught.value))


def test_checkpoints_are_where_sagemaker_says_else_in_the_usual_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    variables = write(tmp_path, checkpointconfig={"LocalPath": str(elsewhere)})
    assert Environment.read(variables).checkpoints is None
    (tmp_path / "checkpoints").mkdir()
    assert Environment.read(variables).checkpoints == tmp_path / "checkpoints"
    elsewhere.mkdir()
    assert Environment.read(variables).checkpoints == elsewhere


def test_double_underscore_stands_for_a_dot(tmp_path: Path) -> None:
    values = {"backbone__name": '"resnet18"', "training.epochs": "3", "training__epochs": "3", "sagemaker__x": "1"}
    environment = Environment.read(write(tmp_path, hyperparameters=values))
    assert environment.options == {"backbone.name": "resnet18", "training.epochs": "3"}
    assert environment.reserved == {"sagemaker__x": "1"}
    values["training__epochs"] = "4"
    with pytest.raises(UserError, match=r"'training.epochs' and 'training__epochs' are the same option"):
        Environment.read(write(tmp_path, hyperparameters=values))


def test_variables(tmp_path: Path) -> None:
    environment = Environment.read(
        {
            "SAGEMAKER_BASE_DIR": str(tmp_path), "TRAINING_JOB_NAME": "job", "TRAINING_JOB_ARN": "arn:1",
            "AWS_REGION": "eu-west-1", "SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY": str(tmp_path),
            "SAGEMAKER_TRAINING_MODULE": "a.b:c",
        }
    )  # fmt: skip
    assert (environment.job_name, environment.job_arn, environment.region) == ("job", "arn:1", "eu-west-1")
    assert (environment.warm_pool_cache, environment.training_module) == (tmp_path, "a.b:c")
    assert not environment.launched
    assert environment.failure_file == tmp_path / "output" / "failure"


def test_endpoint_variables_by_the_names_of_three_images() -> None:
    hosting = ServingEnvironment.read(
        {
            "SAGEMAKER_BIND_TO_PORT": "9000", "SAGEMAKER_SAFE_PORT_RANGE": "9000-9099",
            "SAGEMAKER_GUNICORN_WORKERS": "3", "MODEL_SERVER_WORKERS": "7", "MODEL_SERVER_TIMEOUT": "40",
            "FRCNN_SERVE_MAX_BATCH": "8",
        }
    )  # fmt: skip
    assert (hosting.port, hosting.safe_ports, hosting.workers, hosting.timeout) == (9000, (9000, 9099), 3, 40)
    assert hosting.options == {"max_batch": "8"}
    for name, text in (
        ("SAGEMAKER_BIND_TO_PORT", "http"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000"),
        ("MODEL_SERVER_WORKERS", "0"),
    ):
        with pytest.raises(UserError, match=f"variable {name} is '{text}'; expected"):
            ServingEnvironment.read({name: text})


@pytest.mark.parametrize(("tuned", "expected"), [(True, "checkpoints/trial-7"), (False, "checkpoints")])
def test_trials_of_a_tuning_job_have_their_own_checkpoints(tmp_path: Path, tuned: bool, expected: str) -> None:
    """All trials share one S3 address, from which a trial would otherwise resume another one's run."""
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    texts = {"_tuning_objective_metric": "evaluation:best_AP"} if tuned else {}
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(texts))
    environment = Environment.read({"SAGEMAKER_BASE_DIR": str(tmp_path), "TRAINING_JOB_NAME": "trial-7"})
    assert environment.checkpoints == tmp_path / expected
