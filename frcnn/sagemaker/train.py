"""One rank of a training job, or the whole of it: ``python -m frcnn.sagemaker.train``."""

from __future__ import annotations

import json
import sys
import traceback

from frcnn.errors import UserError
from frcnn.sagemaker.environment import Environment, Rank
from frcnn.sagemaker.failure import failure_of, report
from frcnn.sagemaker.job import Job, bring_back_model, prepare, saved_job

INTERRUPTED = "interrupted.json"


def main() -> int:
    """Train as the channels and hyperparameters say; returns the exit code, and leaves the failure file where it is not 0."""
    rank = Rank.read()
    environment = Environment.read()
    try:
        # Ranks take what their host's toolkit prepared: a pipe can be read only once.
        _train(environment, saved_job(environment) if rank.launched else prepare(environment), rank)
    except UserError as mistake:
        sys.stderr.write(f"frcnn: {mistake}\n")
        error: Exception = mistake
    except Exception as unforeseen:
        traceback.print_exc()
        error = unforeseen
    else:
        return 0
    report(environment.failure_file, failure_of(error, environment.resources.current_host, rank.rank))
    return 1


def _train(environment: Environment, job: Job, rank: Rank) -> None:
    from frcnn.startup import import_tensorflow

    import_tensorflow()
    from frcnn.sagemaker.report import describe_job
    from frcnn.sagemaker.resources import ResourceMonitor
    from frcnn.training.trainer import Trainer

    first = rank.rank == 0
    if first:
        bring_back_model(job.folders)
        for line in (*describe_job(environment, job.folders, rank), *job.notes):
            print(line, flush=True)
    trainer = Trainer(job.config, job.folders)
    # One rank a host watches its host.
    with ResourceMonitor(environment.output, environment.resources.current_host, lambda: trainer.step, watch=rank.local_rank == 0):
        trainer.run()
    if first:
        _mark(environment, trainer.step, trainer.total_steps)


def _mark(environment: Environment, step: int, steps: int) -> None:
    """Leave a file that tells an interrupted job from a finished one, whatever its exit code becomes."""
    file = environment.output / INTERRUPTED
    if step < steps:
        file.write_text(json.dumps({"step": step, "steps": steps}) + "\n")
    else:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
