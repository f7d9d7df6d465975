"""One rank of a training job, or the whole of it: ``python -m frcnn.container.train``."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from collections.abc import Iterator

from frcnn.container.environment import Environment
from frcnn.container.failure import failure_of, report
from frcnn.container.job import PreparedJob, prepare, saved_job
from frcnn.distributed import World, connect
from frcnn.errors import UserError, print_message
from frcnn.training.stop import StopRequest

INTERRUPTED = "interrupted.json"


class _Log(io.TextIOWrapper):
    """Standard output as a log: mpirun gives its ranks a terminal, on which progress would be a bar and no metric be found."""

    def isatty(self) -> bool:
        return False


def main() -> int:
    """Train as the channels and hyperparameters say; returns the exit code, and leaves the failure file where it is not 0."""
    environment = Environment.read()
    sys.stdout = _Log(sys.stdout.detach(), encoding="utf-8", errors="replace", line_buffering=True)  # type: ignore[union-attr]
    try:
        with _reported(environment, None):
            world = connect()
        with StopRequest() as stop, world.abort_together(), _reported(environment, world):
            # Ranks take what their host's toolkit prepared: a pipe can be read only once.
            _train(environment, saved_job(environment) if environment.launched else prepare(environment), world, stop)
    except UserError as mistake:
        print_message(str(mistake))
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _reported(environment: Environment, world: World | None) -> Iterator[None]:
    """Tell SageMaker why an exception ends this rank, before the rank ends the others."""
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
        for line in (*describe_job(environment, job.folders, hosts), *job.notes):
            print(line, flush=True)
    trainer = Trainer(job.config, job.folders, world)
    # One rank a host watches its host.
    with ResourceMonitor(environment.output, host, lambda: trainer.step, watch=world.local_rank == 0):
        trainer.run(stop)
    if world.is_main:
        # A file tells an interrupted job from a finished one, whatever its exit code becomes.
        mark = environment.output / INTERRUPTED
        if trainer.finished:
            mark.unlink(missing_ok=True)
        else:
            mark.write_text(json.dumps({"step": trainer.step, "steps": trainer.total_steps}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
