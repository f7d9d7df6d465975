"""Data before training: check-dataset, make-shapes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from frcnn.cli.console import OUT_FOLDER, PATH, SPLITS, example
from frcnn.errors import UserError
from frcnn.startup import import_tensorflow


@click.command(
    "check-dataset",
    epilog=example(
        "frcnn check-dataset bccd",
        "frcnn check-dataset bccd --split train --config configs/bccd_r18_fpn.yaml",
    ),
)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    multiple=True,
    help="Only this one; may be given again.  [default: all that are there]",
)
@click.option("--config", "file", type=PATH, help="Recipe whose sizes and anchors suggestions are compared with.")
@click.option(
    "--out",
    type=OUT_FOLDER,
    default=Path("runs/check"),
    show_default=True,
    help="Folder for a picture of examples per split.",
)
def check_dataset(folder: Path, split: tuple[str, ...], file: Path | None, out: Path) -> None:
    """Check a COCO folder before training.

    Prints counts, histograms, suggestions, and every bad annotation and image; draws examples with boxes. The exit code is 1
    where something is bad: training skips bad annotations and puts up with a small share of bad images.
    """
    from frcnn.config import load_config

    config = load_config(file)
    import_tensorflow()
    from frcnn.data.check import check_dataset as check

    clean = True
    for name, channel in _find_channels(folder, split):
        report = check(*channel, config, contact_sheet=out / f"{name}.png")
        click.echo(f"{report.to_text()}\n")
        clean &= report.clean
    if not clean:
        raise click.exceptions.Exit(1)


@click.command("make-shapes", epilog=example("frcnn make-shapes shapes --images 800 --seed 0"))
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "--images",
    type=click.IntRange(5),
    default=800,
    show_default=True,
    help="Pictures in all; one in five is for validation.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Other seeds draw other pictures.")
def make_shapes(folder: Path, images: int, seed: int) -> None:
    """Draw a data set of simple shapes.

    It is for a first try without data of one's own, in COCO's layout. A folder that holds the same pictures already is left as
    it is.
    """
    from frcnn.data.shapes import make_shapes as draw

    click.echo(f"shapes: {draw(folder, images=images, seed=seed)}")


def _find_channels(folder: Path, splits: tuple[str, ...]) -> list[tuple[str, tuple[Path, Path]]]:
    """The named splits with their files; without names those that the folder has, of which there must be one."""
    from frcnn.config import Data
    from frcnn.data.splits import find_split

    data = Data(root=folder)
    if splits:
        return [(split, find_split(data, split)) for split in splits]
    found = []
    for split in SPLITS:
        with contextlib.suppress(UserError):
            found.append((split, find_split(data, split)))
    return found or [(SPLITS[0], find_split(data, SPLITS[0]))]  # raises, and says where it was looked for
