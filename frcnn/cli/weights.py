"""Weights from elsewhere: import-weights."""

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
    "--from", "framework", type=click.Choice(("torchvision", "detectron2")), required=True, help="Whose file it is."
)
@click.option("--out", type=OUT_FOLDER, required=True, help="Model folder to write.")
def import_weights(file: Path, framework: str, out: Path) -> None:
    """Make a model folder of another framework's weights.

    Prints what became of every tensor. A detector can be used at once (evaluate, predict) or be trained further (train
    weights=DIR, with the same classes or others); a classification ResNet is for training alone. Nothing in the file is executed.
    docs/weights.md says which files there are.
    """
    import_tensorflow()
    from frcnn.weights.import_weights import import_weights as run

    account = run(file, framework, out)
    click.echo(
        f"{file}: {account.network}"
        + (f", {len(account.class_names)} classes" if account.class_names else ", backbone alone")
    )
    click.echo(f"{account.used} tensors used")
    for name, option in sorted(account.settings.items()):
        click.echo(f"became {option}: {name}")
    for name, reason in sorted(account.left_out.items()):
        click.echo(f"left out: {name} ({reason})")
    click.echo(f"model: {out}")
