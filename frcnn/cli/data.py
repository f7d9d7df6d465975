"""Dataset commands: check-dataset, make-shapes."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frcnn.cli.console import BOX_FORMATS, OUT_FILE, OUT_FOLDER, PATH, SPLITS, example
from frcnn.errors import UserError
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from frcnn.config import Config
    from frcnn.data.box_format import BoxFormat
    from frcnn.data.coco import Index


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
    help="Split to check; may be repeated.  [default: all splits of the folder]",
)
@click.option("--config", "file", type=PATH, help="Recipe whose image sizes and anchors the suggestions start from.")
@click.option("--box-format", type=click.Choice(BOX_FORMATS), help="Format of the boxes, as data.box_format.")
@click.option(
    "--out",
    type=OUT_FOLDER,
    default=Path("runs/check"),
    show_default=True,
    help="Folder for one image of examples per split.",
)
@click.option(
    "--augmentations",
    type=OUT_FILE,
    help="PNG that shows what the recipe's augmentation makes of an image, in each of several epochs.",
)
def check_dataset(
    folder: Path,
    split: tuple[str, ...],
    file: Path | None,
    box_format: BoxFormat | None,
    out: Path,
    augmentations: Path | None,
) -> None:
    """Check a COCO folder before training.

    Prints counts, histograms, suggestions, and every invalid annotation and image, draws examples with boxes, and
    compares the image files of the splits. The exit code is 1 if anything is invalid: training skips invalid
    annotations and tolerates a small share of unreadable images.
    """
    from frcnn.config import load_config

    config = load_config(file, [f"data.box_format={box_format}"] if box_format else [])
    import_tensorflow()
    from frcnn.data.check import check_dataset as check
    from frcnn.data.shared_files import describe_shared_files

    clean = True
    indexes = []
    for name, paths in find_splits(folder, split):
        report = check(*paths, config, contact_sheet=out / f"{name}.png")
        click.echo(f"{report.to_text()}\n")
        clean &= report.clean
        indexes.append(report.index)
    if augmentations:
        _draw_augmentations(indexes[0], config, augmentations)
    for first, second in itertools.combinations(indexes, 2):
        if warning := describe_shared_files(first, second):
            click.echo(f"{warning}\n")
    if not clean:
        raise click.exceptions.Exit(1)


@click.command("make-shapes", epilog=example("frcnn make-shapes shapes --images 800 --seed 0"))
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "--images",
    type=click.IntRange(5),
    default=800,
    show_default=True,
    help="Total number of images; one in five is for validation.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random numbers.")
def make_shapes(folder: Path, images: int, seed: int) -> None:
    """Draw a synthetic dataset of simple shapes.

    For a first run without data. A folder that already holds the same images is kept.
    """
    from frcnn.data.shapes import make_shapes as draw

    click.echo(f"shapes: {draw(folder, images=images, seed=seed)}")


def _draw_augmentations(index: Index, config: Config, file: Path) -> None:
    """Draw the image with the most boxes as training sees it, and without augmentation."""
    from frcnn.config import Augment
    from frcnn.data.augmentation_sheet import EPOCHS, draw_augmentations
    from frcnn.data.unreadable_images import UnreadableImages

    record = max(index.images, key=lambda image: len(image.labels))
    plain = config.model_copy(update={"augment": Augment(horizontal_flip=0.0)})
    rows = {f"{record.path.name}, not augmented": plain, "augmented": config}
    draw_augmentations(record, rows, file, UnreadableImages(index, max_share=1.0), range(EPOCHS))
    click.echo(f"Augmentations: {file}\n")


def find_splits(folder: Path, splits: tuple[str, ...]) -> list[tuple[str, tuple[Path, Path]]]:
    """The named splits with their files, or all splits of the folder, which must have at least one."""
    from frcnn.config import Data
    from frcnn.data.splits import find_split

    data = Data(root=folder)
    if splits:
        return [(split, find_split(data, split)) for split in splits]
    found = []
    for split in SPLITS:
        with contextlib.suppress(UserError):
            found.append((split, find_split(data, split)))
    return found or [(SPLITS[0], find_split(data, SPLITS[0]))]  # raises, and says what was searched
