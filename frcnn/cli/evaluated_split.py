"""The options of commands that detect a whole split: which model, which images, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from frcnn.cli.console import BOX_FORMATS, PATH, SPLITS, TEST_OPTIONS
from frcnn.cli.tile import tiling_of, tiling_options
from frcnn.errors import UserError

if TYPE_CHECKING:
    from frcnn.config import Config
    from frcnn.data.box_format import BoxFormat
    from frcnn.data.coco import Index
    from frcnn.tiling import Tiling


@dataclass(frozen=True)
class EvaluatedSplit:
    """What the options say.

    Attributes:
        data_name: how the command names the COCO folder in messages: ``--data`` or ``DATA``.
    """

    data_name: str
    model: Path
    data: Path | None
    split: str
    images: Path | None
    annotations: Path | None
    box_format: BoxFormat | None
    batch_size: int
    tile: int | None
    overlap: float | None
    test: str | None

    @property
    def name(self) -> str:
        """The split's name in documents: the annotation file, if one is given."""
        return str(self.annotations) if self.annotations else self.split

    @property
    def tiling(self) -> Tiling | None:
        """How the images are tiled; None: they are not."""
        return tiling_of(self.tile, self.overlap)

    def find_index(self, config: Config) -> Index:
        """The selected images; by default those of the data that the model with this configuration was trained on."""
        from frcnn.config import Data
        from frcnn.data.coco import find_split, load_index

        if self.images and self.annotations:
            return load_index(self.images, self.annotations, box_format=self.box_format)
        if self.data and not self.data.is_dir():
            raise UserError(
                f"{self.data_name} is {str(self.data)!r}, which is not a folder; give the path of a COCO folder"
            )
        if self.data:
            found = find_split(Data(root=self.data), self.split, "rename them, or give --images and --annotations")
            return load_index(*found, box_format=self.box_format)
        remedy = f"the model's configuration names it; give {self.data_name}, or --images and --annotations"
        found = find_split(config.data, self.split, remedy)
        return load_index(*found, box_format=self.box_format or config.data.box_format)


def split_options(data_name: Literal["--data", "DATA"]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options to a command, which gets them as its first argument, an :class:`EvaluatedSplit`.

    Args:
        data_name: ``DATA`` for a command that has its own arguments ``model`` and ``data`` instead of options.
    """
    options: list[Callable[..., Any]] = [
        click.option("--split", type=click.Choice(SPLITS), default="validation", show_default=True),
        click.option(
            "--images", type=PATH, help=f"Folder of images, with --annotations, instead of {data_name} and --split."
        ),
        click.option("--annotations", type=PATH, help="COCO instances JSON file."),
        click.option("--box-format", type=click.Choice(BOX_FORMATS), help="Format of the boxes, as data.box_format."),
        click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images per batch."),
        tiling_options,
        click.option("--test", metavar="OPTIONS", help=TEST_OPTIONS),
    ]
    if data_name == "--data":
        options[:0] = [
            click.option("--model", type=PATH, required=True, help="Model folder that train wrote."),
            click.option("--data", type=PATH, help="COCO folder.  [default: the one that the model was trained on]"),
        ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_split(**values: Any) -> Any:
            names = [field.name for field in fields(EvaluatedSplit) if field.name != "data_name"]
            chosen = EvaluatedSplit(data_name, **{name: values.pop(name) for name in names})
            if (chosen.images is None) != (chosen.annotations is None):
                raise UserError(
                    f"--images and --annotations must be given together, or neither to use {data_name} and --split"
                )
            return command(chosen, **values)

        return functools.reduce(lambda decorated, option: option(decorated), reversed(options), with_split)

    return decorate
