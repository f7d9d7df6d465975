"""The command line. Each command imports what it needs when it runs, so that ``frcnn --help`` is instant."""

from __future__ import annotations

import click

from frcnn import __version__
from frcnn.cli.cluster import launch
from frcnn.cli.console import Commands
from frcnn.cli.convert import convert
from frcnn.cli.data import check_dataset, make_shapes
from frcnn.cli.doctor import doctor
from frcnn.cli.endpoint import delete, deploy, invoke
from frcnn.cli.export import export
from frcnn.cli.fetch_weights import fetch_weights
from frcnn.cli.jobs import launch_job, launch_tuning, list_jobs, transform
from frcnn.cli.model import evaluate, train
from frcnn.cli.predict import predict
from frcnn.cli.recipe import suggest_recipe
from frcnn.cli.register import register
from frcnn.cli.report import report
from frcnn.cli.serve import serve
from frcnn.cli.split import split
from frcnn.cli.thresholds import thresholds
from frcnn.cli.tile import tile_dataset
from frcnn.cli.weights import import_weights


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="frcnn")
def main() -> None:
    """Train, evaluate and serve Faster R-CNN on COCO-format datasets."""


main.add_command(train)
main.add_command(evaluate)
main.add_command(report)
main.add_command(thresholds)
main.add_command(predict)
main.add_command(serve)
main.add_command(check_dataset)
main.add_command(make_shapes)
main.add_command(suggest_recipe)
main.add_command(convert)
main.add_command(split)
main.add_command(tile_dataset)
main.add_command(fetch_weights)
main.add_command(import_weights)
main.add_command(export)
main.add_command(launch)
main.add_command(launch_job)
main.add_command(launch_tuning)
main.add_command(list_jobs)
main.add_command(deploy)
main.add_command(invoke)
main.add_command(transform)
main.add_command(delete)
main.add_command(register)
main.add_command(doctor)
