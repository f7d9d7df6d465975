"""Recipes that write themselves: suggest-recipe, and what train does without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from frcnn.atomic import write_atomically
from frcnn.cli.console import PATH, example
from frcnn.errors import UserError, print_message
from frcnn.startup import import_tensorflow

RECIPE = "recipe.yaml"  # in the folder of a run that chose its own


@click.command(
    "suggest-recipe",
    epilog=example(
        "frcnn suggest-recipe bccd --minutes 25",
    ),
)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--minutes", type=click.FloatRange(1), help="Time for the whole run.  [default: what the data are worth]")
@click.option("--weights", help="Model folder or name of fetched weights to start from.  [default: random weights]")
@click.option("--device", type=click.Choice(("cpu", "gpu")), help="[default: a GPU if there is one]")
def suggest_recipe(folder: Path, minutes: float | None, weights: str | None, device: str | None) -> None:
    """Write a recipe for a dataset.

    Measures the speed of a few training steps on this machine, chooses image size, backbone, anchors, batch, epochs,
    schedule and augmentation, and prints a YAML file in which each option has its reason: redirect it to a file for
    --config of train. docs/tuning.md has the rules.
    """
    import_tensorflow()
    from frcnn.training.suggestion import suggest_recipe as suggest

    click.echo(suggest(folder, minutes, weights, device, print_message), nl=False)


def own_recipe(folder: Path, minutes: float, overrides: Sequence[str], started: float, processes: int) -> Path:
    """The recipe file that train chooses for a folder, in the folder of the run; an interrupted run's is kept.

    Args:
        overrides: ``output`` and ``weights`` among them count for the choice.
        started: ``time.monotonic()`` at the start of the command, from which the minutes count.
    """
    from frcnn.config import load_config

    if processes > 1:
        raise UserError(
            "a recipe is chosen by one process: write it with frcnn suggest-recipe, then train with --config"
        )
    given = {name: text for name, _, text in (override.partition("=") for override in overrides)}
    file = Path(given.get("output", Path("runs") / (folder.resolve().name or "dataset"))).expanduser() / RECIPE
    if file.exists():
        print_message(f"resuming with the recipe {file}; delete that folder to start anew")
        return file
    load_config(None, list(overrides))  # refuse wrong overrides before the measurement
    import_tensorflow()
    from frcnn.training.suggestion import suggest_recipe as suggest

    text = suggest(folder, minutes, given.get("weights"), None, print_message, started=started, overrides=overrides)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    print_message(f"recipe: {file}")
    return file
