"""Two containers on a network of their own, and SageMaker's toolkit starting MPI between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sagemaker_host import ENDLESS, SMALL, Host

GIVEN_UP_WITHIN = 60  # seconds


@pytest.fixture
def network(docker: Callable[..., str]) -> Iterator[str]:
    """Without a way out, as with SageMaker's network isolation."""
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
def removed_first(
    hosts: Callable[..., list[Host]], network: str, docker: Callable[..., str]
) -> Iterator[Callable[..., list[Host]]]:
    """Containers leave a network before it can be removed."""
    made: list[Host] = []

    def make(hyperparameters: dict[str, str]) -> list[Host]:
        made.extend(hosts(hyperparameters, 2))
        return made

    yield make
    for host in made:
        docker("rm", "--force", host.container)
        host.container = ""


def test_both_train_one_model(
    image: str, channel: Path, network: str, removed_first: Callable[..., list[Host]]
) -> None:
    leader, worker = both = removed_first({**SMALL, "sagemaker_mpi_enabled": "true"})
    start(both, image, channel, network)
    assert leader.exit_code() == 0, leader.log
    assert worker.exit_code() == 0, worker.log
    assert max(leader.steps()) == 4
    assert "mpirun" in leader.log
    assert (leader.folder / "model/weights.safetensors").exists()
    assert not list((worker.folder / "model").iterdir())  # merged by SageMaker: one of them may write


@pytest.mark.parametrize("killed", [0, 1], ids=["leader", "worker"])
def test_the_other_ends_soon_and_says_who_went_away(
    killed: int,
    image: str,
    channel: Path,
    network: str,
    removed_first: Callable[..., list[Host]],
    docker: Callable[..., str],
) -> None:
    both = removed_first(ENDLESS)
    start(both, image, channel, network)
    both[0].wait_for_step(3)
    docker("kill", both[killed].container)
    began = time.monotonic()
    other = both[1 - killed]
    assert other.exit_code(GIVEN_UP_WITHIN) != 0, other.log
    assert time.monotonic() - began < GIVEN_UP_WITHIN
    assert both[killed].name in other.failure()
    assert both[killed].exit_code() == 137


def test_stop_saves_once_for_both(
    image: str, channel: Path, network: str, removed_first: Callable[..., list[Host]], docker: Callable[..., str]
) -> None:
    leader, worker = both = removed_first(ENDLESS)
    start(both, image, channel, network)
    leader.wait_for_step(3)
    docker("kill", "--signal", "TERM", worker.container)
    docker("kill", "--signal", "TERM", leader.container)
    assert leader.exit_code() == 0, leader.log
    assert worker.exit_code() in (0, 143), worker.log
    assert leader.checkpoints()
    assert not worker.checkpoints()
