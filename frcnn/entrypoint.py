"""Process 1 of the container: runs a training job, an endpoint, a command of ``frcnn``, any other program, or a shell.

SageMaker starts a container with the single argument ``train`` or ``serve``; with further arguments these two are
commands of ``frcnn``. In every case signals are forwarded, orphans are reaped, and the container exits with its child's
exit code.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from frcnn.container.init import Init
from frcnn.errors import EXIT_FAILURE, UserError, print_message

if TYPE_CHECKING:
    from frcnn.container.environment import Environment

SHELL = ("/bin/bash",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; returns the container's exit code."""
    init = Init()  # first of all: process 1 has no default signal handlers
    words = list(sys.argv[1:] if arguments is None else arguments)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if words == ["train"]:
        return train(init, variables)
    if words == ["serve"]:
        return init.run((sys.executable, "-m", "frcnn.container.serve"), variables)
    if not words:
        return init.run(SHELL, os.environ)
    if (
        words[0].startswith("-")
        or words[0] in ("train", "serve")
        or (shutil.which(words[0]) is None and _is_verb(words[0]))
    ):
        words = [sys.executable, "-m", "frcnn.cli", *words]
    return init.run(words, os.environ)


def train(init: Init, variables: dict[str, str]) -> int:
    """Run this host's part of a training job; writes the failure file when the job fails."""
    from frcnn.container.environment import Environment, base_folder, failure_file
    from frcnn.container.failure import FailureParser, failure_of, report, write_failure
    from frcnn.container.hosts import STOPPED, LeaderHost, WorkerHost
    from frcnn.container.runner import choose_runner
    from frcnn.container.ssh_keys import install_ssh_keys

    file = failure_file(base_folder(os.environ))
    host = os.uname().nodename
    try:
        file.unlink(missing_ok=True)  # left by an earlier local run in the same folder
        environment = Environment.read()
        host = environment.resources.current_host
        runner = choose_runner(environment)
        if runner.mpi and len(environment.resources.hosts) > 1:
            install_ssh_keys(environment)
    except UserError as error:
        print_message(str(error))
        report(file, failure_of(error, host))
        return EXIT_FAILURE
    parser = FailureParser()
    if runner.mpi and not environment.resources.is_leader:
        hosts = environment.resources.hosts
        worker = WorkerHost(hosts[0], host, len(hosts), prepared_check(environment))
        code = worker.exit_code(init.run(runner.command, variables, worker.on_signal, parser.read, worker.every_second))
        stopped, failure = worker.stopped, worker.failure
    elif runner.mpi or environment.program or environment.training_module:
        leader = LeaderHost(init)
        code = init.run(runner.command, variables, leader.on_signal, parser.read, leader.every_second)
        stopped, failure = leader.stopped, None
    else:
        stopped, failure = False, None
        code = init.run(runner.command, variables, on_line=parser.read)
        stopped = code == STOPPED
    if code and not stopped:
        write_failure(file, failure or parser.failure(code, "training", host))
    return code


def prepared_check(environment: Environment) -> Callable[[], bool]:
    """A function that returns True once this host has prepared the job; a user's own program needs no preparation."""
    if environment.program or environment.training_module:
        return lambda: True
    from frcnn.container.job import saved_config

    file = saved_config(environment)
    file.unlink(missing_ok=True)  # left by an earlier run in the same container
    return file.is_file


def _is_verb(word: str) -> bool:
    from frcnn.cli import main as command_line

    return word in command_line.commands


if __name__ == "__main__":
    sys.exit(main())
