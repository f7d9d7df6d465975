"""A training job on SageMaker: launch-job."""

from __future__ import annotations

import json
from pathlib import Path

import click

from frcnn.cli.console import PATH, example


@click.command(
    "launch-job",
    epilog=example(
        "frcnn launch-job --config configs/jobs/bccd.yaml --dry-run",
        "frcnn launch-job --config configs/jobs/bccd.yaml --price 1.5 instance_count=2 hyperparameters.training.epochs=12",
    ),
)
@click.option("--config", "file", type=PATH, required=True, help="Job: a YAML file such as those under configs/jobs/.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the request, and ask AWS for nothing.")
@click.option("--follow", is_flag=True, help="Print the job's log until it ends.")
@click.option(
    "--price", type=click.FloatRange(0), help="What an instance costs an hour, to say what the job costs at most."
)
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
def launch_job(file: Path, dry_run: bool, follow: bool, price: float | None, overrides: tuple[str, ...]) -> None:
    """Start a training job on SageMaker.

    The options of the recipe, the instance types, the options of mpirun and every member of the request are checked before. It needs
    boto3 (pip install -e '.[sagemaker]' in frcnn's folder) and credentials; --dry-run needs no credentials where the job file names
    the account.
    """
    from frcnn.aws.launcher import Launcher, cost, load_job

    job = load_job(file, list(overrides))
    request = job.request()
    if dry_run:
        click.echo(json.dumps(request, indent=2))
    instances = cost(job.instance_count, job.instance_type, job.max_hours + job.keep_alive_minutes / 60, price)
    click.echo(
        f"{job.processes()} processes; paid at most: {instances}{', less on spot' if job.spot else ''}", err=True
    )
    if dry_run:
        return
    launcher = Launcher(job.region())
    name = launcher.start(job)
    click.echo(f"training job: {name}\nmodel will be: {job.artifact()}")
    if follow:
        for line in launcher.follow(name):
            click.echo(line)
