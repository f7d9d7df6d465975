"""Exit of a process that has imported TensorFlow."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

from frcnn.errors import EXIT_FAILURE

STOPPED = (128 + 2, 128 + 15)  # by SIGINT or SIGTERM: all ranks end together, as after success


def exit_process(code: int) -> NoReturn:
    """Exit as the interpreter does, but without its teardown.

    The teardown frees the objects of TensorFlow and Keras one by one, which takes several seconds of CPU time, while
    SageMaker, ``docker stop`` or a user waits. What comes before it is done here: join the other threads, run the exit
    handlers, finalize MPI unless the process failed, and flush standard output and error. Output that cannot be
    written is a failure.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # joins the threads that are no daemons
    atexit._run_exitfuncs()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi and code in (0, *STOPPED) and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()  # otherwise done by mpi4py in the teardown; mpirun takes a rank without it for a crash
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe or stream
            code = code or EXIT_FAILURE
    os._exit(code)
