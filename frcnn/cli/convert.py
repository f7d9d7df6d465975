"""Other annotation formats -> COCO: voc-to-coco, manifest-to-coco."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from frcnn.cli.console import OUT_FILE, PATH, example
from frcnn.errors import UserError


@click.command(
    "voc-to-coco",
    epilog=example(
        "frcnn voc-to-coco VOC2012/Annotations --list VOC2012/ImageSets/Main/train.txt --out coco/annotations/instances_train.json",
        "frcnn voc-to-coco Annotations --classes cat,dog --out instances.json",
    ),
)
@click.argument("folder", type=PATH, metavar="ANNOTATIONS_DIR")
@click.option("--list", "names", type=PATH, help="Text file whose lines begin with the names of the pictures to take.")
@click.option("--classes", help="Names in the order of their ids, with commas.  [default: those found, sorted]")
@click.option("--out", type=OUT_FILE, required=True, help="COCO instances JSON file to write.")
def voc_to_coco(folder: Path, names: Path | None, classes: str | None, out: Path) -> None:
    """Convert PASCAL VOC's XML files.

    Give training and validation the same --classes. Difficult objects become crowd regions, which are neither trained on nor counted.
    Pictures stay where they are: copy or link them to coco/train and coco/val.
    """
    from frcnn.data.voc import voc_to_coco as convert

    stems = [line.split()[0] for line in _lines(names) if line.strip()] if names else None
    _write(convert(folder, [name.strip() for name in classes.split(",")] if classes else (), stems), out)


@click.command(
    "manifest-to-coco",
    epilog=example(
        "frcnn manifest-to-coco output.manifest --images pictures --out coco/annotations/instances_train.json"
    ),
)
@click.argument("manifest", type=PATH)
@click.option(
    "--images",
    type=PATH,
    required=True,
    help="Folder with the pictures that the manifest names by their address in S3.",
)
@click.option("--out", type=OUT_FILE, required=True, help="COCO instances JSON file to write.")
def manifest_to_coco(manifest: Path, images: Path, out: Path) -> None:
    """Convert a manifest of SageMaker Ground Truth.

    A training job takes the manifest as it is; this is for work on one's own machine.
    """
    from frcnn.data.manifest import manifest_to_coco as convert

    _lines(manifest)
    _write(convert(manifest, images), out)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); expected a text file") from error


def _write(tables: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(tables) + "\n")
    click.echo(
        f"{out}: {len(tables['images'])} images, {len(tables['annotations'])} objects, {len(tables['categories'])} classes"
    )
