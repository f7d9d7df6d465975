"""Our training under SageMaker's training toolkit: the hook that the toolkit calls, and its command with patches.

``python -m frcnn.container.toolkit`` is the toolkit's ``train`` with :func:`main` as ``SAGEMAKER_TRAINING_MODULE``. The
toolkit waits until the hosts' names resolve, starts the SSH daemons and mpirun, and notifies the workers of success.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sagemaker_training import entry_point, mpi, params, process, runner
from sagemaker_training import environment as toolkit_environment
from sagemaker_training.cli.train import main as toolkit_train

from frcnn.container.environment import BASE, Environment
from frcnn.container.failure import failure_of, report
from frcnn.container.job import prepare, save_job
from frcnn.container.mpi_options import check_mpi_options
from frcnn.container.runner import SUPERVISED, choose_runner
from frcnn.distributed.mpirun import TRANSPORTS
from frcnn.errors import UserError

HOOK = "frcnn.container.toolkit:main"
PROGRAM = "frcnn_train.py"
STUB = """# Written by frcnn at the start of a job, because the training toolkit runs only programs in this folder.
from frcnn.container.train import run
run()
"""
# Prefixes of the variables that ranks on other hosts need; SSH forwards none.
EXPORTED = (
    "SAGEMAKER_", "TRAINING_JOB_", "AWS_REGION", "AWS_DEFAULT_REGION", "FRCNN_", "HOROVOD_", "NCCL_", "FI_", "TF_",
    "XLA_", "OMP_", "PYTHON", "TMPDIR",
)  # fmt: skip
# Detect a host without network in 11 seconds; Open MPI's default takes eight minutes.
KEEPALIVE = {"oob_tcp_keepalive_time": 5, "oob_tcp_keepalive_intvl": 2, "oob_tcp_keepalive_probes": 3}


def main() -> None:
    """Called by the toolkit instead of running a program.

    Raises:
        UserError: the job cannot be run; the reason is in the failure file.
    """
    environment = Environment.read()
    try:
        chosen = choose_runner(_without_hook(environment))
        patch_toolkit(environment, chosen.mpi)
        if not environment.program:
            job = prepare(environment)
            save_job(environment, job.config)
            if environment.resources.is_leader:
                print(*job.messages, sep="\n", end="\n" if job.messages else "", flush=True)
            environment.code.mkdir(parents=True, exist_ok=True)
            (environment.code / PROGRAM).write_text(STUB)
    except UserError as error:
        report(environment.failure_file, failure_of(error, environment.resources.current_host))
        raise
    toolkit = toolkit_environment.Environment()
    program = toolkit.user_entry_point if environment.program else PROGRAM
    arguments = toolkit.to_cmd_args() if environment.program else ["train"]
    exported = {name: value for name, value in os.environ.items() if name.startswith(EXPORTED)}
    entry_point.run(
        toolkit.module_dir,
        program,
        arguments,
        {**(toolkit.to_env_vars() if environment.program else {}), **exported},
        runner_type=runner.MPIRunnerType if chosen.mpi else runner.ProcessRunnerType,
        extra_opts=_mpi_options(environment, chosen.processes_per_host),
    )


def patch_toolkit(environment: Environment, mpi: bool = False) -> None:
    """Make the toolkit use an existing network interface, and work without the files that only SageMaker writes.

    Args:
        mpi: set the hyperparameter that enables MPI, without which the toolkit finds no hosts to train on.
    """
    resources = environment.resources
    found = {
        "current_host": resources.current_host,
        "hosts": list(resources.hosts),
        "current_instance_type": resources.instance_type or "local",
        "network_interface_name": resources.interface,
    }
    read = _or_empty(toolkit_environment.read_resource_config)
    toolkit_environment.read_resource_config = lambda: {
        **found,
        **read(),
        "network_interface_name": resources.interface,
    }
    hyperparameters = _or_empty(toolkit_environment.read_hyperparameters)
    toolkit_environment.read_hyperparameters = lambda: {
        **hyperparameters(),
        **({params.MPI_ENABLED: True} if mpi else {}),
    }
    # The toolkit would import TensorFlow (ten seconds, half a GB) to recognise its exceptions in output it does not
    # capture.
    process.get_tensorflow_exception_classes = list
    toolkit_environment.read_input_data_config = _or_empty(toolkit_environment.read_input_data_config)
    _use_plain_transports()


def _use_plain_transports() -> None:
    """Replace the toolkit's ``btl ^openib``: that includes libfabric, with which MPI_Finalize takes a second."""
    create = mpi.MasterRunner._create_command
    mpi.MasterRunner._create_command = lambda self: [TRANSPORTS if word == "^openib" else word for word in create(self)]


def skip_waits(leader: bool) -> None:
    """Skip the toolkit's notification of the workers after training, and its pauses of 30 seconds.

    Only under our process 1, which tells the workers itself how the job ended. A worker's pauses are those of a loop,
    the leader's is the last thing it does.
    """
    longest = 0.0 if leader else 1.0
    mpi.time = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds if seconds < 30 else longest))
    mpi._write_status_file = lambda host, status_file: True


def _or_empty(read: Any) -> Any:
    def tolerant() -> dict[str, Any]:
        try:
            return dict(read())
        except FileNotFoundError:
            return {}

    return tolerant


def _without_hook(environment: Environment) -> Environment:
    """The environment without this module's hook, for the choice of the runner."""
    return replace(environment, training_module=None)


def _mpi_options(environment: Environment, processes: int) -> dict[str, Any]:
    text = environment.reserved.get(params.MPI_CUSTOM_OPTIONS, "")
    check_mpi_options(text)
    words = text.split()
    for name, value in KEEPALIVE.items():
        if name not in words:
            words += ["-mca", name, str(value)]
    if not (BASE / "input" / "config" / "resourceconfig.json").exists():
        # The toolkit preloads a library into every rank that reads this file and crashes without it.
        words += ["-x", "LD_PRELOAD="]
    if "--NCCL_DEBUG" not in text:
        words += ["--NCCL_DEBUG", "WARN"]
    options: dict[str, Any] = {params.MPI_PROCESSES_PER_HOST: processes, params.MPI_CUSTOM_OPTIONS: " ".join(words)}
    total = environment.number(params.MPI_NUM_PROCESSES)
    return {**options, params.MPI_NUM_PROCESSES: total} if total else options


def run() -> None:
    """Run the toolkit's ``train``, with this module's hook unless the user has set one."""
    if not os.environ.get("SAGEMAKER_TRAINING_MODULE"):
        os.environ["SAGEMAKER_TRAINING_MODULE"] = HOOK
    environment = Environment.read()
    patch_toolkit(environment)
    if os.environ.get(SUPERVISED):
        skip_waits(environment.resources.is_leader)
    Path(environment.output).mkdir(parents=True, exist_ok=True)
    toolkit_train()


if __name__ == "__main__":
    run()
