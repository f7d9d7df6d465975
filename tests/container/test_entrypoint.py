"""The container from outside: the arguments, signals and files that SageMaker uses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.numpy
from tiny_job import Container

from frcnn.config import Config
from frcnn.container.environment import Environment
from frcnn.container.job import save_job
from frcnn.container.run_training import prepared_check
from frcnn.training.metric_lines import METRIC_DEFINITIONS

MakeContainer = Callable[..., Container]


def values_of(log: str, name: str) -> list[float]:
    (definition,) = [definition for definition in METRIC_DEFINITIONS if definition["Name"] == name]
    return [float(value) for value in re.findall(definition["Regex"], log)]


def test_job_leaves_model_and_reports(finished_job: Container) -> None:
    container = finished_job
    model = container.base / "model"
    assert {"weights.safetensors", "config.yaml", "labels.json", "metrics.json", "SHA256SUMS"} == {
        path.name for path in model.iterdir()
    }
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "images", "report"} == {
        path.name for path in (container.base / "output" / "data").iterdir()
    }
    assert {"step-00000012", "model", "metrics.jsonl", "best_detections.npz"} == {
        path.name for path in (container.base / "checkpoints").iterdir()
    }
    assert not (container.base / "output" / "failure").exists()
    assert re.search(r"^job: test, 1 x this machine, 1 processes$", container.log, re.MULTILINE)
    assert re.search(
        r"^network: \w+ \(ethwe of resourceconfig.json does not exist\), EFA: none", container.log, re.MULTILINE
    )
    assert re.search(r"^channel training: File, \d+ files, \d+\.\d MB$", container.log, re.MULTILINE)
    assert re.search(r"\.json: \d+ images .* annotations used as objects$", container.log, re.MULTILINE)
    assert len(values_of(container.log, "train:loss")) == 12
    assert values_of(container.log, "resources:memory_percent")[-1] > 0
    assert len(values_of(container.log, "evaluation:AP")) == 1
    (resources,) = (container.base / "output" / "data" / "tensorboard").glob("resources-*")
    assert list(resources.glob("events.*"))


def test_stopped_job_resumes(finished_job: Container, make_container: MakeContainer) -> None:
    """SIGTERM in mid-run; then a restart from the checkpoints."""
    container = make_container({"training.epochs": "2"})
    container.start()
    container.wait_for("train step=3 ")
    container.signal(signal.SIGTERM)
    assert container.wait() == 0, container.log
    stopped = json.loads((container.base / "output" / "data" / "interrupted.json").read_text())
    assert 3 <= stopped["step"] < stopped["steps"] == 12
    assert f"SIGTERM: saved a checkpoint at step {stopped['step']}/12" in container.log
    assert (container.base / "checkpoints" / f"step-{stopped['step']:08d}").is_dir()
    assert not (container.base / "output" / "failure").exists()
    container.start()
    assert container.wait() == 0, container.log
    assert f"resumed at step {stopped['step']} of 12" in container.log
    assert not (container.base / "output" / "data" / "interrupted.json").exists()
    expected, got = (
        safetensors.numpy.load_file(job.base / "model" / "weights.safetensors") for job in (finished_job, container)
    )
    assert all((expected[name] == got[name]).all() for name in expected)


def test_job_stopped_before_its_first_step_ends_at_once(make_container: MakeContainer) -> None:
    container = make_container({"training.epochs": "500"})
    container.start()
    container.wait_for("channel training: File")  # printed while the model is being built
    container.signal(signal.SIGTERM)
    assert container.wait() == 143, container.log
    assert "train step=" not in container.log
    assert not list((container.base / "checkpoints").glob("step-*"))
    assert not (container.base / "output" / "failure").exists()


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"training.epoch": "3"}, "hyperparameters: .*unknown option 'training.epoch'; did you mean 'training.epochs'"),
        (
            {"sagemaker_mpi_num_of_processes_per_host": "all"},
            "hyperparameter 'sagemaker_mpi_num_of_processes_per_host' is 'all'",
        ),
        ({"data.root": "/nowhere"}, "option 'data.root' is '/nowhere', which is not a folder"),
    ],
)
def test_user_error_is_in_the_failure_file(
    make_container: MakeContainer, hyperparameters: dict[str, str], message: str
) -> None:
    container = make_container(hyperparameters)
    container.start()
    assert container.wait() != 0
    what, advice, _ = container.failure.split("\n")
    assert re.search(message.removeprefix("hyperparameters: .*"), what)
    assert re.search(r"\((rank 0, )?host \S+\)$", what)
    assert "restart the job" in advice
    assert len(container.failure.encode()) <= 1024
    assert "Traceback" not in container.log


def test_empty_base_folder_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frcnn.entrypoint", "train"]
    done = subprocess.run(
        command, env={**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no channel contains training data" in (tmp_path / "output" / "failure").read_text()


@pytest.mark.parametrize("evidence", ["TRAINING_JOB_NAME is set", "input/config exists"])
def test_container_without_command_trains_if_it_belongs_to_a_job(tmp_path: Path, evidence: str) -> None:
    """As the local mode of SageMaker's SDK v3 starts the image."""
    variables = {**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)}
    if evidence.startswith("TRAINING"):
        variables["TRAINING_JOB_NAME"] = "local"
    else:
        (tmp_path / "input" / "config").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "frcnn.entrypoint"],
        env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0  # without data
    assert re.search(rf"^frcnn: no command was given, but \S*{evidence}: running 'train'", done.stderr)
    assert "no channel contains training data" in (tmp_path / "output" / "failure").read_text()


def test_container_without_command_is_a_shell_otherwise(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "frcnn.entrypoint"],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)},
        input="exit $((20 + 3))\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (23, "")


def test_invalid_config_file_is_reported_by_process_1(make_container: MakeContainer) -> None:
    container = make_container()
    (container.base / "input" / "config" / "resourceconfig.json").write_text("{")
    container.start()
    assert container.wait() == 1
    assert "resourceconfig.json is not valid JSON" in container.failure


def test_killed_training_is_reported(make_container: MakeContainer) -> None:
    container = make_container({"training.epochs": "50"})
    container.start()
    container.wait_for("train step=1 ")
    assert container.process is not None
    children = Path(f"/proc/{container.process.pid}/task/{container.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert container.wait() == 137
    assert container.failure.startswith("training was terminated by SIGKILL (host ")
    assert "batch_size" in container.failure


def test_host_is_prepared_once_its_configuration_is_saved(make_container: MakeContainer) -> None:
    environment = Environment.read({"SAGEMAKER_BASE_DIR": str(make_container().base)})
    save_job(environment, Config())
    prepared = prepared_check(environment)
    assert not prepared()  # left by an earlier run
    save_job(environment, Config())
    assert prepared()
    assert prepared_check(replace(environment, program="mine.py"))()
    assert prepared_check(replace(environment, training_module="mine:main"))()


def test_frcnn_commands(make_container: MakeContainer) -> None:
    for words, output in (
        (("--version",), "frcnn"),
        (("train", "--help"), "--config"),
        (("make-shapes", "--help"), "DIR"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "frcnn.entrypoint", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert output in done.stdout
