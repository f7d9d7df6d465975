"""The runner of a job, from its devices, hosts and hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frcnn.container.environment import Environment
from frcnn.container.runner import ALONE, TOOLKIT, choose_runner
from frcnn.errors import UserError


def environment(
    base: Path, hosts: int = 1, types: tuple[str, ...] = (), variables: dict[str, str] | None = None, **reserved: str
) -> Environment:
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    groups = [{"instance_type": kind, "hosts": [name]} for kind, name in zip(types, names, strict=False)]
    files: dict[str, Any] = {
        "resourceconfig": {"current_host": "algo-1", "hosts": names, "instance_groups": groups},
        "hyperparameters": {f"sagemaker_{name}": value for name, value in reserved.items()},
    }
    (base / "input" / "config").mkdir(parents=True)
    for name, content in files.items():
        (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
    return Environment.read({"SAGEMAKER_BASE_DIR": str(base), **(variables or {})})


@pytest.mark.parametrize(
    ("hosts", "gpus", "reserved", "expected"),
    [
        (1, 0, {}, (ALONE, False, 1)),
        (1, 1, {}, (ALONE, False, 1)),
        (1, 8, {}, (TOOLKIT, True, 8)),
        (2, 0, {}, (TOOLKIT, True, 1)),
        (2, 4, {"mpi_enabled": "true"}, (TOOLKIT, True, 4)),
        (1, 8, {"mpi_enabled": "False"}, (ALONE, False, 1)),
        (1, 0, {"mpi_enabled": '"true"', "mpi_num_of_processes_per_host": '"2"'}, (TOOLKIT, True, 2)),
        (1, 0, {"mpi_num_of_processes_per_host": "2"}, (TOOLKIT, True, 2)),
        (1, 8, {"mpi_num_of_processes_per_host": "1"}, (ALONE, False, 1)),
        (1, 0, {"program": "mine.py"}, (TOOLKIT, False, 1)),
        (2, 4, {"program": "mine.py", "mpi_enabled": "true"}, (TOOLKIT, True, 4)),
    ],
)
def test_choice(tmp_path: Path, hosts: int, gpus: int, reserved: dict[str, str], expected: tuple[Any, ...]) -> None:
    runner = choose_runner(environment(tmp_path, hosts, **reserved), gpus)
    assert (runner.command, runner.mpi, runner.processes_per_host) == expected


def test_user_module_runs_under_the_toolkit(tmp_path: Path) -> None:
    assert choose_runner(environment(tmp_path, variables={"SAGEMAKER_TRAINING_MODULE": "a:b"}), 0).command == TOOLKIT


def test_hosts_that_would_train_separately_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="2 hosts but sagemaker_mpi_enabled is off: each host would train a separate model"
    ):
        choose_runner(environment(tmp_path / "a", 2, mpi_enabled="False"), 1)
    with pytest.raises(UserError, match=r"different types \(ml.c5.xlarge, ml.g5.xlarge\)"):
        choose_runner(environment(tmp_path / "b", 2, ("ml.g5.xlarge", "ml.c5.xlarge")), 1)
    with pytest.raises(UserError, match="'-mca pml' is already set by"):
        choose_runner(environment(tmp_path / "c", mpi_custom_mpi_options="-mca pml ob1"), 1)
