"""Exit of a process that has imported TensorFlow."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """Run the exit handlers, finalize MPI after success, and exit without the interpreter's teardown.

    The teardown frees the objects of TensorFlow and Keras one by one, which takes several seconds of CPU time, while
    SageMaker or ``docker stop`` wait.
    """
    atexit._run_exitfuncs()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi and not code and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()  # otherwise done by mpi4py in the teardown; mpirun takes a rank without it for a crash
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
