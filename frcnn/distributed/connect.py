"""Connects the processes of a launcher: ``mpirun``, ``horovodrun --mpi``, ``frcnn launch``, SageMaker, or none."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from frcnn.distributed.mpi import INSTALL, MPIWorld
from frcnn.distributed.world import World
from frcnn.errors import UserError


def connect() -> World:
    """The processes that the launcher started, this one included; a world of one process without a launcher.

    Imports neither TensorFlow nor Horovod; :meth:`World.init` does. It also checks what can be reported by all ranks
    together; here only errors are raised that prevent the ranks from communicating.

    Raises:
        UserError: mpi4py is missing, or uses another MPI than the launcher.
    """
    launched = _launched()
    return World(host=socket.gethostname()) if launched == 1 else _mpi_world(launched)


def _launched() -> int:
    """Number of processes by the variables of Open MPI's mpirun, of another MPI's, or of horovodrun without MPI."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "HOROVOD_SIZE"):
        if os.environ.get(name):
            return int(os.environ[name])
    return 1


def _mpi_world(launched: int) -> World:
    # By default waiting threads of MPI, such as Horovod's background thread, spin and take cores from the computation.
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library found
        raise UserError(
            f"{launched} processes were started, but mpi4py cannot be imported ({error}); {INSTALL}"
        ) from error
    if MPI.COMM_WORLD.size != launched:
        raise UserError(
            f"the launcher started {launched} processes, but MPI counts {MPI.COMM_WORLD.size} on "
            f"{socket.gethostname()}: "
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
    _pin_cores(local)
    return world


def _pin_cores(local: Any) -> None:
    """Pin each process of a host to its share of the cores, unless the launcher did.

    TensorFlow and the input pipeline start a thread per core they may use; without pinning, the threads of several
    processes compete for the same cores.
    """
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return
    cores = sorted(os.sched_getaffinity(0))
    same = len(set(map(tuple, local.allgather(cores)))) == 1
    share = len(cores) // local.size
    if same and share and local.size > 1:
        os.sched_setaffinity(0, cores[local.rank * share : (local.rank + 1) * share])
