"""How a training job runs on this host: as one process, or under SageMaker's training toolkit with or without MPI."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from frcnn.container.environment import Environment
from frcnn.container.mpi_options import check_mpi_options
from frcnn.errors import UserError
from frcnn.gpus import count_gpus

ALONE = (sys.executable, "-m", "frcnn.container.train")
TOOLKIT = (sys.executable, "-m", "frcnn.container.toolkit")
SUPERVISED = "FRCNN_SUPERVISED"  # variable that is set for a runner started by our process 1


@dataclass(frozen=True)
class Runner:
    """What process 1 starts.

    Attributes:
        command: our training, or the toolkit.
        mpi: the toolkit starts the ranks with mpirun.
        processes_per_host: ranks on each host.
    """

    command: tuple[str, ...]
    mpi: bool = False
    processes_per_host: int = 1


def choose_runner(environment: Environment, gpus: int | None = None) -> Runner:
    """One rank per GPU, or one on the CPU, unless ``sagemaker_mpi_num_of_processes_per_host`` is set; MPI if that is
    several.

    A user's own program (``SAGEMAKER_PROGRAM``) or module (``SAGEMAKER_TRAINING_MODULE``) always runs under the
    toolkit, with MPI if ``sagemaker_mpi_enabled`` is set.

    Raises:
        UserError: the hosts or the options contradict each other.
    """
    if environment.training_module:
        return Runner(TOOLKIT, mpi=bool(environment.switch("sagemaker_mpi_enabled")))
    hosts = len(environment.resources.hosts)
    enabled = environment.switch("sagemaker_mpi_enabled")
    found = count_gpus() if gpus is None else gpus
    processes = environment.number("sagemaker_mpi_num_of_processes_per_host") or found or 1
    check_mpi_options(environment.reserved.get("sagemaker_mpi_custom_mpi_options", ""))
    if environment.program:
        return Runner(TOOLKIT, bool(enabled), processes)
    types = environment.resources.instance_types
    if len(types) > 1 and "sagemaker_distribution_instance_groups" not in environment.reserved:
        raise UserError(
            f"the job has instance groups of different types ({', '.join(types)}); choose one type, or list the groups "
            "that train in sagemaker_distribution_instance_groups"
        )
    if enabled is False and hosts > 1:
        raise UserError(
            f"the job has {hosts} hosts but sagemaker_mpi_enabled is off: each host would train a separate model and "
            "overwrite the others'; remove sagemaker_mpi_enabled, or choose one instance"
        )
    if enabled or (enabled is None and hosts * processes > 1):
        return Runner(TOOLKIT, True, processes)
    return Runner(ALONE)
