"""Finding out what the launcher started: ``mpirun``, ``horovodrun --mpi``, ``frcnn launch``, SageMaker, or nobody."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from frcnn.distributed.mpi import INSTALL, MPIWorld
from frcnn.distributed.world import World
from frcnn.errors import UserError


def connect() -> World:
    """The processes that the launcher started, this one among them; a world of one where there is no launcher.

    Neither TensorFlow nor Horovod is imported; :meth:`World.join` does that.

    Raises:
        UserError: mpi4py is missing or not of the launcher's MPI. What concerns ranks that can speak is for :meth:`World.join`.
    """
    launched = _launched()
    return World(host=socket.gethostname()) if launched == 1 else _mpi_world(launched)


def _launched() -> int:
    """How many processes the launcher says it started: Open MPI's mpirun, another MPI's, or horovodrun without MPI."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "HOROVOD_SIZE"):
        if os.environ.get(name):
            return int(os.environ[name])
    return 1


def _mpi_world(launched: int) -> World:
    # MPI's waiting threads, Horovod's above all, spin by default, and take half a core from the threads that compute.
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        raise UserError(f"{launched} processes were started, but mpi4py cannot be used ({error}); {INSTALL}") from error
    if MPI.COMM_WORLD.size != launched:
        raise UserError(
            f"the launcher started {launched} processes, but MPI counts {MPI.COMM_WORLD.size} on {socket.gethostname()}: "
            f"mpi4py uses {MPI.Get_library_version().split(',')[0]}, which is not the launcher's; "
            "start with mpirun of Open MPI 4.1, horovodrun --mpi or frcnn launch"
        )
    communicator = MPI.COMM_WORLD.Dup()
    local = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    hosts = tuple(communicator.allgather(MPI.Get_processor_name()))
    world = MPIWorld(
        communicator.rank, communicator.size, local.rank, local.size, hosts[communicator.rank], communicator, hosts
    )
    logging.basicConfig(format=f"{world.name_of(world.rank)}: %(message)s", level=logging.WARNING)
    logging.captureWarnings(True)
    _take_own_cores(local)
    return world


def _take_own_cores(local: Any) -> None:
    """Give each process of a host its share of the cores, where the launcher did not: TensorFlow and the input pipeline start a
    thread per core they may use, and two processes' threads on the same cores wait for each other."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return
    cores = sorted(os.sched_getaffinity(0))
    same = len(set(map(tuple, local.allgather(cores)))) == 1
    share = len(cores) // local.size
    if same and share and local.size > 1:
        os.sched_setaffinity(0, cores[local.rank * share : (local.rank + 1) * share])
