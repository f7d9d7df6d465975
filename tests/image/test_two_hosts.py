"""Two containers on a private network, with MPI started by SageMaker's toolkit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sagemaker_host import ENDLESS, SMALL, Host

EXIT_SECONDS = 60


@pytest.fixture
def network(docker: Callable[..., str]) -> Iterator[str]:
    """A network without internet access, as with SageMaker's network isolation."""
    name = f"frcnn-{time.monotonic_ns()}"
    docker("network", "create", "--internal", name)
    yield name
    docker("network", "rm", name)


def start(both: list[Host], image: str, channel: Path, network: str) -> None:
    for host in both:
        host.start(
            image, channel, "--network", network, "--network-alias", host.name, "--env", f"TRAINING_JOB_NAME={network}"
        )


@pytest.fixture
def make_hosts(
    hosts: Callable[..., list[Host]], network: str, docker: Callable[..., str]
) -> Iterator[Callable[..., list[Host]]]:
    """Removes the containers before the network."""
    made: list[Host] = []

    def make(hyperparameters: dict[str, str]) -> list[Host]:
        made.extend(hosts(hyperparameters, 2))
        return made

    yield make
    for host in made:
        docker("rm", "--force", host.container)
        host.container = ""


def test_hosts_train_one_model(image: str, channel: Path, network: str, make_hosts: Callable[..., list[Host]]) -> None:
    leader, worker = both = make_hosts({**SMALL, "sagemaker_mpi_enabled": "true"})
    start(both, image, channel, network)
    assert leader.exit_code() == 0, leader.log
    assert worker.exit_code() == 0, worker.log
    assert max(leader.steps()) == 4
    assert "mpirun" in leader.log
    assert (leader.folder / "model/weights.safetensors").exists()
    assert not list((worker.folder / "model").iterdir())  # SageMaker merges the folders, so only one host may write


@pytest.mark.parametrize("killed", [0, 1], ids=["leader", "worker"])
def test_other_host_exits_soon_and_names_the_killed_one(
    killed: int,
    image: str,
    channel: Path,
    network: str,
    make_hosts: Callable[..., list[Host]],
    docker: Callable[..., str],
) -> None:
    both = make_hosts(ENDLESS)
    start(both, image, channel, network)
    both[0].wait_for_step(3)
    docker("kill", both[killed].container)
    began = time.monotonic()
    other = both[1 - killed]
    assert other.exit_code(EXIT_SECONDS) != 0, other.log
    assert time.monotonic() - began < EXIT_SECONDS
    assert both[killed].name in other.failure()
    assert both[killed].exit_code() == 137


def test_stop_saves_once_for_both(
    image: str, channel: Path, network: str, make_hosts: Callable[..., list[Host]], docker: Callable[..., str]
) -> None:
    leader, worker = both = make_hosts(ENDLESS)
    start(both, image, channel, network)
    leader.wait_for_step(3)
    docker("kill", "--signal", "TERM", worker.container)
    docker("kill", "--signal", "TERM", leader.container)
    assert leader.exit_code() == 0, leader.log
    assert worker.exit_code() in (0, 143), worker.log
    assert leader.checkpoints()
    assert not worker.checkpoints()
