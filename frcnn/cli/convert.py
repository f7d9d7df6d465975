"""Convert other annotation formats to COCO: voc-to-coco, manifest-to-coco."""

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
        "frcnn voc-to-coco Annotations --list ImageSets/Main/train.txt --out coco/annotations/instances_train.json",
        "frcnn voc-to-coco Annotations --classes cat,dog --out instances.json",
    ),
)
@click.argument("folder", type=PATH, metavar="ANNOTATIONS_DIR")
@click.option(
    "--list", "names", type=PATH, help="Text file with the name of an image to convert at the start of each line."
)
@click.option("--classes", help="Class names in order of id, comma-separated.  [default: the names found, sorted]")
@click.option("--out", type=OUT_FILE, required=True, help="COCO instances JSON file to write.")
def voc_to_coco(folder: Path, names: Path | None, classes: str | None, out: Path) -> None:
    """Convert PASCAL VOC XML files to COCO.

    Use the same --classes for training and validation. Objects marked as difficult become crowd regions, which training
    and evaluation ignore. Images are not copied.
    """
    from frcnn.data.voc import voc_to_coco as convert

    stems = [line.split()[0] for line in _lines(names) if line.strip()] if names else None
    _write(convert(folder, [name.strip() for name in classes.split(",")] if classes else (), stems), out)


@click.command(
    "manifest-to-coco",
    epilog=example(
        "frcnn manifest-to-coco output.manifest --images images --out coco/annotations/instances_train.json"
    ),
)
@click.argument("manifest", type=PATH)
@click.option(
    "--images",
    type=PATH,
    required=True,
    help="Folder with the images; each is found by the end of its S3 address.",
)
@click.option("--out", type=OUT_FILE, required=True, help="COCO instances JSON file to write.")
def manifest_to_coco(manifest: Path, images: Path, out: Path) -> None:
    """Convert an augmented manifest of SageMaker Ground Truth to COCO.

    Needed for local training only: a training job accepts manifests directly.
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
    images, objects, classes = (len(tables[key]) for key in ("images", "annotations", "categories"))
    click.echo(f"{out}: {images} images, {objects} objects, {classes} classes")
