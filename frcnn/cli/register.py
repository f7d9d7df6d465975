"""SageMaker's model registry: register."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frcnn.cli.aws_options import (
    config_option,
    dry_run_option,
    json_option,
    overrides_argument,
    plan,
    print_plan,
    write_json,
)
from frcnn.cli.console import PATH, example
from frcnn.errors import UserError

if TYPE_CHECKING:
    from frcnn.aws.launcher import Launcher
    from frcnn.weights.score_thresholds import ScoreThresholds


@click.command(
    epilog=example(
        "frcnn register --config configs/packages/bccd.yaml",
        "frcnn register --config configs/packages/bccd.yaml --model runs/cells/model --dry-run",
    )
)
@config_option("configs/packages")
@click.option("--model", "folder", type=PATH, help="Local copy of the model folder; required with --dry-run.")
@dry_run_option
@json_option
@overrides_argument
def register(
    file: Path, folder: Path | None, dry_run: bool, json_file: Path | None, overrides: tuple[str, ...]
) -> None:
    """Register a model in SageMaker's registry.

    Creates a version with the metrics of the model and a model card.
    """
    from frcnn.aws.autoscaling import Call
    from frcnn.aws.image_uri import region_of_image
    from frcnn.aws.launcher import Launcher
    from frcnn.aws.model_package import ModelPackage
    from frcnn.aws.request_file import load_request

    package = load_request(ModelPackage, file, overrides)
    if dry_run and folder is None:
        raise UserError("--dry-run does not read S3; give the model folder with --model")
    launcher = None if dry_run else Launcher(region_of_image(package.image))
    content = read_model(folder) if folder else _download(launcher, package.artifact)
    calls = [
        Call("sagemaker", "create_model_package_group", package.group_request()),
        Call("sagemaker", "create_model_package", package.request(*content)),
    ]
    if launcher is None:
        print_plan(plan(calls), json_file)
        return
    arn = launcher.register(package, *content)
    click.echo(f"model package: {arn}")
    write_json({"model_package": arn, "requests": plan(calls)}, json_file)


def read_model(folder: Path) -> tuple[dict[str, Any], list[str], ScoreThresholds | None]:
    """Metrics, class names and score thresholds of a model folder.

    Raises:
        UserError: a file is missing or invalid.
    """
    from frcnn.weights.score_thresholds import read_thresholds

    contents = []
    for name in ("metrics.json", "labels.json"):
        try:
            contents.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name} cannot be read ({error}); expected a model folder") from error
    metrics, labels = contents
    class_names = [entry["name"] for entry in labels]
    return metrics, class_names, read_thresholds(folder, class_names)


def _download(launcher: Launcher | None, artifact: str) -> tuple[dict[str, Any], list[str], ScoreThresholds | None]:
    from frcnn.serving.model_source import find_model

    assert launcher is not None
    with tempfile.TemporaryDirectory() as temporary:
        archive = launcher.download(artifact, Path(temporary)) / artifact.rpartition("/")[2]
        return read_model(find_model(archive, Path(temporary)))
