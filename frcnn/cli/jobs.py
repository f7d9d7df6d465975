"""SageMaker jobs: launch-job, transform, jobs."""

from __future__ import annotations

from pathlib import Path

import click

from frcnn.cli.aws_options import (
    config_option,
    dry_run_option,
    json_option,
    overrides_argument,
    plan,
    price_option,
    print_plan,
    region_option,
    write_json,
)
from frcnn.cli.console import example
from frcnn.errors import print_message

KINDS = ("training", "tuning", "transform", "endpoint")


@click.command(
    "launch-job",
    epilog=example(
        "frcnn launch-job --config configs/jobs/bccd.yaml --dry-run",
        "frcnn launch-job --config configs/jobs/bccd.yaml --price 1.5 hyperparameters.training.epochs=12",
    ),
)
@config_option("configs/jobs")
@dry_run_option
@click.option("--follow", is_flag=True, help="Print the job's log until it ends.")
@json_option
@price_option
@overrides_argument
def launch_job(
    file: Path,
    dry_run: bool,
    follow: bool,
    json_file: Path | None,
    price: float | None,
    overrides: tuple[str, ...],
) -> None:
    """Start a training job on SageMaker.

    The recipe's options, the instance type, the mpirun options and every member of the request are validated first.
    Needs boto3 (pip install -e '.[sagemaker]') and credentials; with --dry-run, no credentials if the job file names
    the account.
    """
    from frcnn.aws.cost import cost
    from frcnn.aws.launcher import Launcher, check_weights
    from frcnn.aws.request_file import load_request
    from frcnn.aws.training_job import TrainingJob

    job = load_request(TrainingJob, file, overrides)
    request = job.request_for_aws()
    paid = cost(job.instance_count, job.instance_type, job.max_hours + job.keep_alive_minutes / 60, price)
    check_weights(job)
    if source := job.weights_source():
        print_message(f"weights {source!r} are uploaded to {job.weights_uri()} before the job starts")
    print_message(f"{job.processes()} processes; maximum cost: {paid}{', less on spot' if job.spot else ''}")
    if dry_run:
        print_plan(request, json_file)
        return
    launcher = Launcher(job.region())
    name = launcher.start(job)
    click.echo(f"training job: {name}\nmodel: {job.artifact()}")
    write_json({"training_job": name, "model": job.artifact(), "request": request}, json_file)
    if follow:
        for line in launcher.follow(name):
            click.echo(line)


@click.command(
    "launch-tuning",
    epilog=example("frcnn launch-tuning --config configs/tuning/bccd.yaml --dry-run --price 1.5"),
)
@config_option("configs/tuning")
@dry_run_option
@click.option("--follow", is_flag=True, help="Wait for the end and print the best trial.")
@json_option
@price_option
@overrides_argument
def launch_tuning(
    file: Path,
    dry_run: bool,
    follow: bool,
    json_file: Path | None,
    price: float | None,
    overrides: tuple[str, ...],
) -> None:
    """Start hyperparameter tuning on SageMaker.

    Many training jobs search for the best values of options. The ranges are validated like the options of a recipe.
    """
    from frcnn.aws.cost import cost
    from frcnn.aws.launcher import Launcher, check_weights
    from frcnn.aws.request_file import load_request
    from frcnn.aws.tuning_job import TuningJob

    tuning = load_request(TuningJob, file, overrides)
    request, job = tuning.request(), tuning.training_job()
    check_weights(job)
    paid = cost(tuning.trials() * job.instance_count, job.instance_type, job.max_hours, price)
    print_message(f"{tuning.trials()} trials; maximum cost: {paid}{', less on spot' if job.spot else ''}")
    if dry_run:
        print_plan(request, json_file)
        return
    launcher = Launcher(job.region())
    click.echo(f"tuning job: {launcher.start_tuning(tuning)}")
    write_json({"tuning_job": tuning.name, "request": request}, json_file)
    if follow:
        for line in launcher.follow_tuning(tuning.name):
            click.echo(line)


@click.command(
    epilog=example("frcnn transform --config configs/transforms/bccd.yaml --dry-run", "frcnn transform --config t.yaml")
)
@config_option("configs/transforms")
@dry_run_option
@json_option
@price_option
@overrides_argument
def transform(
    file: Path, dry_run: bool, json_file: Path | None, price: float | None, overrides: tuple[str, ...]
) -> None:
    """Run a batch transform on SageMaker.

    Sends every image of an S3 folder through a model, and waits for the end. The instances are billed while the
    job runs.
    """
    from frcnn.aws.autoscaling import Call
    from frcnn.aws.cost import cost
    from frcnn.aws.image_uri import region_of_image
    from frcnn.aws.launcher import Launcher
    from frcnn.aws.request_file import load_request
    from frcnn.aws.transform import Transform

    job = load_request(Transform, file, overrides)
    model = job.create_model()
    calls = [Call("sagemaker", "create_model", model.request())] if model else []
    calls.append(Call("sagemaker", "create_transform_job", job.request()))
    print_message(f"cost if it takes an hour: {cost(job.instance_count, job.instance_type, 1, price)}")
    if dry_run:
        print_plan(plan(calls), json_file)
        return
    launcher = Launcher(region_of_image(job.image) if job.image else None)
    output = launcher.transform(job)
    responses = len(launcher.files(output))
    click.echo(f"{responses} responses: {output}")
    write_json({"transform_job": job.name, "output": output, "responses": responses}, json_file)


@click.command("jobs", epilog=example("frcnn jobs", "frcnn jobs --kind endpoint --json endpoints.json"))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these; default: all.")
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="Newest of each kind.")
@region_option
@dry_run_option
@json_option
def list_jobs(kinds: tuple[str, ...], limit: int, region: str | None, dry_run: bool, json_file: Path | None) -> None:
    """List SageMaker jobs and endpoints.

    Prints the newest ones, and what is being billed now.
    """
    from frcnn.aws.listing import list_calls, list_resources

    calls = list_calls(kinds or KINDS, limit)
    if dry_run:
        print_plan(plan([call for _, call in calls]), json_file)
        return
    from frcnn.aws.account import AwsAccount

    resources = list_resources(AwsAccount(region), calls)
    for resource in resources:
        click.echo(
            f"{resource['kind']:<9} {resource['status']:<12} {resource['created']:%Y-%m-%d %H:%M} {resource['name']}"
        )
    billed = [resource["name"] for resource in resources if resource["billed"]]
    click.echo(f"billed now: {', '.join(billed) if billed else 'none of these'}")
    write_json(resources, json_file)
