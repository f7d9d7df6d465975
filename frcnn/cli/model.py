"""Commands on models: train, evaluate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from frcnn.cli.console import PATH, check_output, counted, example
from frcnn.cli.evaluated_split import EvaluatedSplit, split_options
from frcnn.cli.recipe import own_recipe
from frcnn.errors import UserError
from frcnn.startup import import_tensorflow


@click.command(
    epilog=example(
        "frcnn train bccd --minutes 25",
        "frcnn train --config configs/bccd_r18_fpn.yaml data.root=bccd training.epochs=20",
        "frcnn train --config configs/shapes_r18_fpn.yaml data.root=shapes optimizer.clip_norm=null",
    )
)
@click.option("--config", "file", type=PATH, help="Recipe: a YAML file such as those under configs/.")
@click.option("--minutes", type=click.FloatRange(1), help="Time for the whole run, instead of --config or with it.")
@click.argument("arguments", nargs=-1, metavar="[DIR] [KEY=VALUE]...")
def train(file: Path | None, minutes: float | None, arguments: tuple[str, ...]) -> None:
    """Train a model.

    KEY=VALUE overrides an option of the recipe; docs/configuration.md lists all options. DIR is the dataset, as
    data.root=DIR. With DIR and --minutes but no recipe, a recipe is chosen as by suggest-recipe. The folder of the run
    is the option 'output'. Ctrl-C or SIGTERM saves a checkpoint and stops, with exit code 130 or 143; rerun the same
    command to resume.
    """
    from frcnn.config import load_config
    from frcnn.distributed import connect
    from frcnn.training.stop import StopRequest

    started = time.monotonic()
    folder, overrides = _split_arguments(arguments, file, minutes)
    with StopRequest(ends_startup=True) as stop:
        world = connect()
        with world.abort_together():
            if file is None:
                assert folder is not None
                assert minutes is not None
                file = own_recipe(folder, minutes, overrides, started, world.size)
            elif minutes is not None:
                overrides.append(f"training.max_minutes={minutes}")
            with world.raise_together():
                config = load_config(file, overrides)
            import_tensorflow()
            from frcnn.training.trainer import Trainer

            trainer = Trainer(config, world=world)
            model = trainer.run(stop)
    if world.is_main and (model / "metrics.json").exists():
        click.echo(f"model: {model}")
    # Other ranks exit with 0: mpirun returns the code of rank 0, and complains about every other one.
    if world.is_main and not trainer.finished:
        raise click.exceptions.Exit(stop.exit_code)


def _split_arguments(
    arguments: tuple[str, ...], file: Path | None, minutes: float | None
) -> tuple[Path | None, list[str]]:
    """The dataset folder and the overrides of train, which include the folder."""
    folder = None
    overrides = list(arguments)
    if overrides and "=" not in overrides[0]:
        folder = Path(overrides.pop(0)).expanduser()
        overrides.insert(0, f"data.root={folder}")
    if file is None and (folder is None or minutes is None):
        raise UserError("give a recipe with --config FILE, or a dataset folder and --minutes, as in: bccd --minutes 25")
    return folder, overrides


@click.command(
    epilog=example(
        "frcnn evaluate --model runs/bccd/model --split test",
        "frcnn evaluate --model runs/aerial/model --data aerial --tile 1024 --overlap 0.2",
        "frcnn evaluate --model runs/bccd/model --images photos --annotations instances.json --json metrics.json",
    )
)
@split_options("--data")
@click.option("--json", "json_file", type=PATH, help="Also write the metrics to this file.")
def evaluate(chosen: EvaluatedSplit, json_file: Path | None) -> None:
    """Evaluate a model.

    Prints the 12 COCO metrics and the AP of each class. More unreadable images than the model's option
    data.max_bad_image_share allows are an error.
    """
    import_tensorflow()
    tiling = chosen.tiling
    from frcnn.distributed import connect
    from frcnn.evaluation.evaluate import evaluate_model
    from frcnn.weights.model_folder import read_model_folder

    world = connect()
    with world.abort_together():
        world.init()
        with world.raise_together():
            if json_file and world.is_main:  # only rank 0 writes it
                check_output(json_file, "--json", folder=False)
            saved = read_model_folder(chosen.model)
        metrics, index, unread = evaluate_model(
            saved, lambda: chosen.find_index(saved.config), world, chosen.batch_size, counted, tiling, chosen.test
        )
    if metrics is None:  # not rank 0
        return
    for line in index.summary.lines():
        click.echo(line)
    if unread:
        click.echo(f"  {len(unread)} images unreadable and counted as blank")
    for name, value in metrics.summary.items():
        click.echo(f"{name:<6} {value:.4f}")
    width = max(map(len, metrics.class_ap))
    for name, value in metrics.class_ap.items():
        click.echo(f"AP of {name:<{width}} {value:.4f}")
    if json_file:
        write_json(
            json_file,
            {
                **metrics.to_json(),
                "unreadable_images": len(unread),
                "model": str(chosen.model),
                "data": index.fingerprint,
                "dataset": index.summary.to_json(),
            },
        )


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value) + "\n")
