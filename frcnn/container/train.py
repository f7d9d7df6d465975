"""One rank of a training job, or all of it: ``python -m frcnn.container.train``."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from frcnn.container.environment import Environment
from frcnn.container.failure import failure_of, report
from frcnn.container.job import PreparedJob, prepare, saved_job
from frcnn.distributed import World, connect
from frcnn.distributed.exit import exit_process
from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.training.stop import StopRequest

INTERRUPTED = "interrupted.json"


class _Log(io.TextIOWrapper):
    """Standard output that is no terminal: mpirun gives ranks one, and metric lines would become a progress bar."""

    def isatty(self) -> bool:
        return False


def main() -> int:
    """Train on the job's channels and hyperparameters; returns the exit code. A failure is in the failure file."""
    environment = Environment.read()
    stdout = sys.stdout.detach()  # type: ignore[union-attr]
    sys.stdout = _Log(stdout, encoding="utf-8", errors="replace", line_buffering=True)
    try:
        with _reported(environment, None):
            world = connect()
        with StopRequest(ends_startup=True) as stop, world.abort_together(), _reported(environment, world):
            # Ranks use what their host's toolkit has prepared, because a pipe can be read only once.
            _train(environment, saved_job(environment) if environment.launched else prepare(environment), world, stop)
    except UserError as error:
        print_message(str(error))
        return EXIT_FAILURE
    except Exception:
        traceback.print_exc()
        return EXIT_FAILURE
    return 0


@contextlib.contextmanager
def _reported(environment: Environment, world: World | None) -> Iterator[None]:
    """Write the failure file when an exception ends this rank, before the rank aborts the others."""
    try:
        yield
    except Exception as error:
        report(
            environment.failure_file,
            failure_of(error, environment.resources.current_host, world.rank if world else None),
        )
        raise


def _train(environment: Environment, job: PreparedJob, world: World, stop: StopRequest) -> None:
    from frcnn.startup import import_tensorflow

    import_tensorflow()
    from frcnn.container.report import describe_job
    from frcnn.container.resource_monitor import ResourceMonitor
    from frcnn.training.trainer import Trainer

    host = environment.resources.current_host
    hosts = world.allgather_strings(host)
    if world.is_main:
        job.folders.bring_back()
        for line in (*describe_job(environment, job.folders, hosts), *job.messages):
            print(line, flush=True)
    trainer = Trainer(job.config, job.folders, world)
    # One rank per host monitors it.
    with ResourceMonitor(environment.output, host, lambda: trainer.step, watch=world.local_rank == 0):
        trainer.run(stop)
    if world.is_main:
        # Distinguishes an interrupted job from a finished one, since both exit with 0.
        marker = environment.output / INTERRUPTED
        if trainer.finished:
            marker.unlink(missing_ok=True)
        else:
            marker.write_text(json.dumps({"step": trainer.step, "steps": trainer.total_steps}) + "\n")


def run() -> NoReturn:
    """Run :func:`main` and exit with its code."""
    try:
        code = main()
    except SystemExit as stop:  # stopped before the first step
        code = stop.code if isinstance(stop.code, int) else EXIT_FAILURE
    exit_process(code)


if __name__ == "__main__":
    run()
