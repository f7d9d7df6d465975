"""Training jobs on SageMaker: launch-job."""

from __future__ import annotations

import json
from pathlib import Path

import click

from frcnn.cli.console import PATH, example


@click.command(
    "launch-job",
    epilog=example(
        "frcnn launch-job --config configs/jobs/bccd.yaml --dry-run",
        "frcnn launch-job --config configs/jobs/bccd.yaml --price 1.5 hyperparameters.training.epochs=12",
    ),
)
@click.option("--config", "file", type=PATH, required=True, help="Job file (YAML), like those under configs/jobs/.")
@click.option("--dry-run", is_flag=True, help="Validate everything and print the request without calling AWS.")
@click.option("--follow", is_flag=True, help="Print the job's log until it ends.")
@click.option("--price", type=click.FloatRange(0), help="Price of an instance per hour, to print the maximum cost.")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
def launch_job(file: Path, dry_run: bool, follow: bool, price: float | None, overrides: tuple[str, ...]) -> None:
    """Start a training job on SageMaker.

    The recipe's options, the instance type, the mpirun options and every member of the request are validated first.
    Needs boto3 (pip install -e '.[sagemaker]') and credentials; with --dry-run, no credentials if the job file names
    the account.
    """
    from frcnn.aws.launcher import Launcher, cost
    from frcnn.aws.request_file import load_request
    from frcnn.aws.training_job import TrainingJob

    job = load_request(TrainingJob, file, overrides)
    request = job.request()
    if dry_run:
        click.echo(json.dumps(request, indent=2))
    instances = cost(job.instance_count, job.instance_type, job.max_hours + job.keep_alive_minutes / 60, price)
    click.echo(
        f"{job.processes()} processes; maximum cost: {instances}{', less on spot' if job.spot else ''}", err=True
    )
    if dry_run:
        return
    launcher = Launcher(job.region())
    name = launcher.start(job)
    click.echo(f"training job: {name}\nmodel: {job.artifact()}")
    if follow:
        for line in launcher.follow(name):
            click.echo(line)
