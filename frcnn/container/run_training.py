"""This host's part of a training job: process 1 starts the runner, watches it, and reports how it ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from frcnn.container.environment import Environment, base_folder, failure_file
from frcnn.container.failure import Failure, FailureParser, failure_of, write_failure
from frcnn.container.host_status import LeaderConnection, WorkerReports
from frcnn.container.hosts import LeaderHost, SingleHost, WorkerHost
from frcnn.container.init import Init
from frcnn.container.job import saved_config
from frcnn.container.preflight import check_job
from frcnn.container.runner import ALONE, SUPERVISED, TOOLKIT, Runner, choose_runner
from frcnn.container.ssh_keys import derive_key, install_ssh_keys
from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.startup import check_temporary_folder

SECRET = "FRCNN_SSH_SECRET"  # not for the runner: the toolkit prints its environment and writes it to a file


def run_training(init: Init, variables: dict[str, str]) -> int:
    """Run the job; returns the container's exit code, and writes the failure file when the job fails.

    Args:
        variables: environment of the runner.
    """
    file = failure_file(base_folder(os.environ))
    name = os.uname().nodename
    host: SingleHost | LeaderHost | WorkerHost = SingleHost(init)
    try:
        check_temporary_folder()
        with contextlib.suppress(OSError):
            file.unlink()  # left by an earlier local run in the same folder
        environment = Environment.read()
        name = environment.resources.current_host
        runner = choose_runner(environment)
        host = _host(init, environment, runner)
        check_job(environment, toolkit=runner.command == TOOLKIT)
        if _has_workers(environment, runner):
            install_ssh_keys(environment)
    except UserError as error:
        print_message(str(error))
        outcome = host.finish(EXIT_FAILURE, failure_of(error, name))
    else:
        outcome = host.finish(*_run(init, runner, variables, host, name))
    if outcome.failure:
        write_failure(file, outcome.failure)
    return outcome.code


def _run(
    init: Init, runner: Runner, variables: dict[str, str], host: SingleHost | LeaderHost | WorkerHost, name: str
) -> tuple[int, Failure | None]:
    """Exit code of the runner, and what its output says about a failure."""
    parser = FailureParser()
    visible = {key: value for key, value in variables.items() if key != SECRET} | {SUPERVISED: "1"}
    code = init.run(runner.command, visible, host.on_signal, parser.read, host.every_second)
    return code, parser.failure(code, "training", name) if code else None


def _host(init: Init, environment: Environment, runner: Runner) -> SingleHost | LeaderHost | WorkerHost:
    """This host's role.

    Raises:
        UserError: the leader cannot listen for reports.
    """
    if runner.command == ALONE:
        return SingleHost(init)
    if not _has_workers(environment, runner):
        return LeaderHost(init)
    leader, *workers = environment.resources.hosts
    key = derive_key(environment, "frcnn host status")
    if environment.resources.is_leader:
        return LeaderHost(init, WorkerReports(workers, key))
    name = environment.resources.current_host
    return WorkerHost(LeaderConnection(leader, name, key), leader, name, prepared_check(environment))


def _has_workers(environment: Environment, runner: Runner) -> bool:
    return runner.mpi and len(environment.resources.hosts) > 1


def prepared_check(environment: Environment) -> Callable[[], bool]:
    """A function that returns True once this host has prepared the job; a user's own program needs no preparation."""
    if environment.program or environment.training_module:
        return lambda: True
    file = saved_config(environment)
    file.unlink(missing_ok=True)  # left by an earlier run in the same container
    return file.is_file
