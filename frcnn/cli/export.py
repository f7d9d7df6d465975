"""Models for use without frcnn: export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from frcnn.cli.console import OUT_FOLDER, PATH, TEST_OPTIONS, example
from frcnn.startup import import_tensorflow


@click.command(
    epilog=example(
        "frcnn export --model runs/bccd/model --out served/bccd/1",
        "frcnn export --model runs/bccd/model --out bccd_fast --ops compiled",
    )
)
@click.option("--model", type=PATH, required=True, help="Model folder written by train.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder to write; must be new or empty.")
@click.option("--format", "form", type=click.Choice(("savedmodel",)), default="savedmodel", show_default=True)
@click.option(
    "--ops",
    "kernel",
    type=click.Choice(("reference", "compiled")),
    default="reference",
    show_default=True,
    help="reference: needs only TensorFlow; compiled: our kernels, whose library is included.",
)
@click.option("--test", metavar="OPTIONS", help=TEST_OPTIONS)
def export(model: Path, out: Path, form: str, kernel: Literal["reference", "compiled"], test: str | None) -> None:
    """Export a model that TensorFlow runs without frcnn.

    It takes encoded images or pixels and gives the detections of predict; docs/export.md shows how to call it.
    """
    import_tensorflow()
    from frcnn.export import export_savedmodel

    export_savedmodel(model, out, kernel, test)
    click.echo(f"{form}: {out}")
