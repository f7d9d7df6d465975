"""Weights of other frameworks: import-weights."""

from __future__ import annotations

from pathlib import Path

import click

from frcnn.cli.console import OUT_FOLDER, PATH, example
from frcnn.startup import import_tensorflow


@click.command(
    "import-weights",
    epilog=example(
        "frcnn import-weights fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --from torchvision --out coco",
        "frcnn import-weights model_final_280758.pkl --from detectron2 --out coco",
    ),
)
@click.argument("file", type=PATH)
@click.option(
    "--from",
    "framework",
    type=click.Choice(("torchvision", "detectron2")),
    required=True,
    help="Framework of the file.",
)
@click.option("--out", type=OUT_FOLDER, required=True, help="Model folder to write.")
def import_weights(file: Path, framework: str, out: Path) -> None:
    """Import another framework's weights into a model folder.

    Reports every tensor that is not used. A detector can be used directly (evaluate, predict) or trained further (train
    weights=DIR, with the same or other classes); a classification ResNet is for training only. No code in the file is
    executed. docs/weights.md lists published files.
    """
    import_tensorflow()
    from frcnn.weights.import_weights import import_weights as run

    report = run(file, framework, out)
    click.echo(
        f"{file}: {report.network}"
        + (f", {len(report.class_names)} classes" if report.class_names else ", backbone only")
    )
    click.echo(f"{report.used} tensors used")
    for name, option in sorted(report.settings.items()):
        click.echo(f"sets {option}: {name}")
    for name, reason in sorted(report.left_out.items()):
        click.echo(f"left out: {name} ({reason})")
    click.echo(f"model: {out}")
