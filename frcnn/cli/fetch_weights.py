"""Published weights: fetch-weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from frcnn.cli.console import OUT_FOLDER, PATH, example
from frcnn.errors import UserError


@click.command(
    "fetch-weights",
    epilog=example(
        "frcnn fetch-weights --list",
        "frcnn fetch-weights torchvision_v2",
        "frcnn fetch-weights torchvision_v2 --file fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth --out coco",
        "frcnn fetch-weights torchvision_v2 --s3 s3://my-bucket/weights/torchvision_v2",
    ),
)
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="List the names, with size, quality, recipe and licence.")
@click.option("--out", type=OUT_FOLDER, help="Model folder to write; default: in the cache, for weights=NAME.")
@click.option("--file", type=PATH, help="A copy that was downloaded by other means.")
@click.option("--s3", "uri", help="Also upload the model folder to this S3 folder.")
def fetch_weights(name: str | None, list_all: bool, out: Path | None, file: Path | None, uri: str | None) -> None:
    """Download and import published weights.

    train weights=NAME then starts from them. The download is resumed if it was interrupted, and its checksum is
    verified. FRCNN_WEIGHTS_URL sets a mirror: a server folder with the same file names. Downloads and model folders are
    kept in FRCNN_WEIGHTS_CACHE (default: ~/.cache/frcnn/weights).
    """
    from frcnn.weights.published import PUBLISHED, cache_folder

    if list_all:
        for key, weights in PUBLISHED.items():
            click.echo(f"{key:<19} {weights.megabytes:>4} MB  {weights.quality:<27} {weights.recipe}")
            click.echo(f"{'':<19} {weights.url}; {weights.licence}")
        return
    if name is None:
        raise UserError("the name of the weights is missing; frcnn fetch-weights --list prints all names")
    from frcnn.startup import import_tensorflow
    from frcnn.weights.download import fetch_file, import_published

    with _bar(name) as progress:
        source = fetch_file(name, file, progress)
    import_tensorflow()
    folder = out or cache_folder() / name
    import_published(name, source, folder)
    click.echo(f"model: {folder}")
    if uri:
        from frcnn.aws.account import AwsAccount

        AwsAccount().upload(folder, uri)
        click.echo(f"uploaded: {uri}")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Progress bar in bytes on standard error, if that is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield show
