"""tile: cut a dataset of large images into tiles; and the options of commands that detect in tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frcnn.cli.console import OUT_FOLDER, PATH, counted, example
from frcnn.cli.data import find_splits
from frcnn.data.tiles import DEFAULT_OVERLAP
from frcnn.errors import UserError

if TYPE_CHECKING:
    from frcnn.tiling import Tiling

OVERLAP = click.FloatRange(0, 0.9)


def tiling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--tile`` and ``--overlap``; see :func:`tiling_of`."""
    command = click.option(
        "--overlap",
        type=OVERLAP,
        help="Minimum share of a tile that its neighbor covers as well; small objects must fit in.  "
        f"[default: {DEFAULT_OVERLAP}]",
    )(command)
    return click.option(
        "--tile",
        type=click.IntRange(32),
        metavar="PIXELS",
        help="Detect in overlapping tiles of this size, and in the whole image, for small objects in large images.",
    )(command)


def tiling_of(tile: int | None, overlap: float | None) -> Tiling | None:
    """What the options say; None: images are not tiled.

    Raises:
        UserError: an overlap without tiles.
    """
    if tile is None:
        if overlap is not None:
            raise UserError("--overlap is the overlap of tiles; give --tile as well")
        return None
    from frcnn.tiling import Tiling

    return Tiling(tile, DEFAULT_OVERLAP if overlap is None else overlap)


@click.command(
    "tile", epilog=example("frcnn tile aerial aerial_tiles --tile 1024", "frcnn tile aerial out --tile 512 --empty 0")
)
@click.argument("folder", type=PATH, metavar="DATA")
@click.argument("out", type=OUT_FOLDER, metavar="OUT")
@click.option("--tile", type=click.IntRange(32), required=True, metavar="PIXELS", help="Side of a tile.")
@click.option(
    "--overlap",
    type=OVERLAP,
    default=DEFAULT_OVERLAP,
    show_default=True,
    help="Minimum share of a tile that its neighbor covers as well.",
)
@click.option(
    "--min-visible",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.4,
    show_default=True,
    help="Share of a box that a tile must contain; boxes with less are dropped from the tile and counted.",
)
@click.option(
    "--empty",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the tiles without objects to keep.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the choice of these.")
def tile_dataset(
    folder: Path, out: Path, tile: int, overlap: float, min_visible: float, empty: float, seed: int
) -> None:
    """Cut a COCO folder of large images into tiles to train on.

    Cuts every split of DATA into the new folder OUT. Crowd regions are kept; segmentations are left out.
    """
    from frcnn.atomic import atomic_folder
    from frcnn.data.coco import load_index
    from frcnn.data.tile_dataset import TileOptions, tile_split

    if out.exists():
        raise UserError(f"{out} exists already; give a new folder for the tiles")
    options = TileOptions(tile, overlap, min_visible, empty, seed)
    indexes = {split: load_index(*paths) for split, paths in find_splits(folder, ())}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as temporary:
        for split, index in indexes.items():
            name = {"validation": "val"}.get(split, split)
            annotations = temporary / "annotations" / f"instances_{name}.json"
            with counted(len(index.images), f"cutting {name}") as count:
                summary = tile_split(index, temporary / name, annotations, options, count)
            for line in (*index.summary.lines(), *summary.lines()):
                click.echo(line if line.startswith(" ") else f"{name}: {line}")
    click.echo(f"{out}: train with data.root={out}")
