"""This host's part of a training job: process 1 starts the runner, watches it, and reports how it ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from frcnn.container.environment import Environment, base_folder, failure_file
from frcnn.container.failure import Failure, FailureParser, failure_of, report, write_failure
from frcnn.container.hosts import STOPPED, LeaderHost, WorkerHost
from frcnn.container.init import Init
from frcnn.container.job import saved_config
from frcnn.container.preflight import check_job
from frcnn.container.runner import TOOLKIT, Runner, choose_runner
from frcnn.container.ssh_keys import install_ssh_keys
from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.startup import check_temporary_folder


def run_training(init: Init, variables: dict[str, str]) -> int:
    """Run the job; returns the container's exit code, and writes the failure file when the job fails.

    Args:
        variables: environment of the runner.
    """
    file = failure_file(base_folder(os.environ))
    host = os.uname().nodename
    try:
        check_temporary_folder()
        with contextlib.suppress(OSError):
            file.unlink()  # left by an earlier local run in the same folder
        environment = Environment.read()
        host = environment.resources.current_host
        runner = choose_runner(environment)
        check_job(environment, toolkit=runner.command == TOOLKIT)
        if runner.mpi and len(environment.resources.hosts) > 1:
            install_ssh_keys(environment)
    except UserError as error:
        print_message(str(error))
        report(file, failure_of(error, host))
        return EXIT_FAILURE
    code, failure = _run(init, environment, runner, variables)
    if failure:
        write_failure(file, failure)
    return code


def _run(init: Init, environment: Environment, runner: Runner, variables: dict[str, str]) -> tuple[int, Failure | None]:
    """Exit code and reason of a failure; a stopped job has none."""
    host = environment.resources.current_host
    parser = FailureParser()
    failure = None
    if runner.mpi and not environment.resources.is_leader:
        hosts = environment.resources.hosts
        worker = WorkerHost(hosts[0], host, len(hosts), prepared_check(environment))
        code = worker.exit_code(init.run(runner.command, variables, worker.on_signal, parser.read, worker.every_second))
        stopped, failure = worker.stopped, worker.failure
    elif runner.mpi or environment.program or environment.training_module:
        leader = LeaderHost(init)
        code = init.run(runner.command, variables, leader.on_signal, parser.read, leader.every_second)
        stopped = leader.stopped
    else:
        code = init.run(runner.command, variables, on_line=parser.read)
        stopped = code == STOPPED
    if not code or stopped:
        return code, None
    return code, failure or parser.failure(code, "training", host)


def prepared_check(environment: Environment) -> Callable[[], bool]:
    """A function that returns True once this host has prepared the job; a user's own program needs no preparation."""
    if environment.program or environment.training_module:
        return lambda: True
    file = saved_config(environment)
    file.unlink(missing_ok=True)  # left by an earlier run in the same container
    return file.is_file
