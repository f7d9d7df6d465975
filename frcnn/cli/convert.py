"""convert: other annotation formats to COCO, one subcommand per format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frcnn.atomic import write_atomically
from frcnn.cli.console import OUT_FILE, PATH, example
from frcnn.errors import UserError

if TYPE_CHECKING:
    from frcnn.data.box_format import BoxFormat
    from frcnn.data.formats.builder import Conversion


def out_option(command: Any) -> Any:
    """Add the options of the file to write."""
    command = click.option("--overwrite", is_flag=True, help="Replace an existing --out.")(command)
    return click.option("--out", type=OUT_FILE, required=True, help="COCO instances JSON file to write.")(command)


def images_option(default: str) -> Any:
    """Option ``--images`` of the formats whose files name images by paths that may be outdated."""
    return click.option("--images", type=PATH, help=f"Folder with the images.  [default: {default}]")


classes_option = click.option(
    "--classes", help="Class names in order of id, comma-separated.  [default: the names found, sorted]"
)
class_ids_option = click.option("--classes", help="Names of the classes 0, 1, …, comma-separated.")


@click.group(epilog=example("frcnn convert yolo data.yaml --out instances_train.json"))
def convert() -> None:
    """Convert annotations of another format to COCO.

    Everything that is skipped or repaired is reported with its count and first examples. Images are not copied: the
    last line names the folder to use them from. For training and validation, use the same --classes.
    """


@convert.command("coco-json", epilog=example("frcnn convert coco-json export.json --images images --out clean.json"))
@click.argument("file", type=PATH)
@images_option("images are not looked for")
@click.option(
    "--box-format",
    type=click.Choice(["xywh", "xyxy", "normalized_xywh"]),
    help="Meaning of bbox: COCO's, corners, or COCO's as shares of the image's sides.  [default: xywh, if plausible]",
)
@out_option
def coco_json(file: Path, images: Path | None, box_format: BoxFormat | None, out: Path, overwrite: bool) -> None:
    """Clean a COCO file of any exporter.

    Repairs ids, types, names, paths and missing boxes, merges images listed twice, and leaves out what cannot be used.
    """
    from frcnn.data.formats.coco_json import clean_coco

    _check_new(out, overwrite)
    _write(clean_coco(file, images=images, box_format=box_format), out)


@convert.command("yolo", epilog=example("frcnn convert yolo dataset/data.yaml --split val --out instances_val.json"))
@click.argument("source", type=PATH, metavar="DATA_YAML|DIR")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Split to convert.  [default: the first]")
@class_ids_option
@out_option
def yolo(source: Path, split: str | None, classes: str | None, out: Path, overwrite: bool) -> None:
    """Convert a YOLO dataset.

    Boxes, polygons, oriented boxes and poses become boxes. Takes data.yaml (Ultralytics, Roboflow), or a folder with
    classes.txt or obj.names (Label Studio, CVAT, Darknet). An image without a label file is an image without objects.
    Category ids are YOLO's class ids, from 0.
    """
    from frcnn.data.formats.yolo import yolo_to_coco

    _check_new(out, overwrite)
    _write(yolo_to_coco(source, split=split, classes=_names(classes)), out)


@convert.command(
    "voc", epilog=example("frcnn convert voc VOC2012 --list VOC2012/ImageSets/Main/val.txt --out instances_val.json")
)
@click.argument("source", type=PATH, metavar="DIR")
@images_option("JPEGImages, images or data beside the annotations, or their folder")
@classes_option
@click.option("--list", "list_file", type=PATH, help="Text file with the name of an image at the start of each line.")
@click.option("--zero-based", is_flag=True, help="Pixels count from 0, as some exporters write, instead of VOC's 1.")
@out_option
def voc(
    source: Path,
    images: Path | None,
    classes: str | None,
    list_file: Path | None,
    zero_based: bool,
    out: Path,
    overwrite: bool,
) -> None:
    """Convert PASCAL VOC XML files.

    Objects marked as difficult become crowd regions, which training and evaluation ignore.
    """
    from frcnn.data.formats.voc import voc_to_coco

    _check_new(out, overwrite)
    names = _names(classes)
    _write(voc_to_coco(source, images=images, classes=names, list_file=list_file, zero_based=zero_based), out)


@convert.command("manifest", epilog=example("frcnn convert manifest output.manifest --images images --out train.json"))
@click.argument("file", type=PATH)
@images_option("that of the manifest")
@click.option("--attribute", help="Label attribute.  [default: the only one, or the newest of an adjustment job]")
@click.option("--verified", metavar="CLASS", help="Only images with this verdict of a verification job.")
@out_option
def manifest(
    file: Path, images: Path | None, attribute: str | None, verified: str | None, out: Path, overwrite: bool
) -> None:
    """Convert an augmented manifest of SageMaker Ground Truth.

    Needed for local training only: a training job accepts manifests directly. Images are found by the end of their S3
    address.
    """
    from frcnn.data.formats.manifest import manifest_to_coco

    _check_new(out, overwrite)
    _write(manifest_to_coco(file, images=images, attribute=attribute, verified=verified, skip_missing=True), out)


@convert.command(
    "sagemaker", epilog=example("frcnn convert sagemaker data/train_annotation --out instances_train.json")
)
@click.argument("source", type=PATH, metavar="DIR|ANNOTATIONS_JSON")
@images_option("train for train_annotation; images beside annotations.json; the folder itself")
@class_ids_option
@out_option
def sagemaker(source: Path, images: Path | None, classes: str | None, out: Path, overwrite: bool) -> None:
    """Convert the input of SageMaker's own detection algorithms.

    Takes the built-in Object Detection algorithm's folder of JSON files, or the annotations.json with corner boxes of
    Object Detection - TensorFlow (JumpStart).
    """
    from frcnn.data.formats.sagemaker_builtin import sagemaker_to_coco

    _check_new(out, overwrite)
    _write(sagemaker_to_coco(source, images=images, classes=_names(classes)), out)


@convert.command("labelme", epilog=example("frcnn convert labelme annotations --out instances_train.json"))
@click.argument("source", type=PATH, metavar="DIR|FILE")
@images_option("that of the JSON files")
@classes_option
@click.option("--extract-images", is_flag=True, help="Write embedded images that have no file into the images folder.")
@out_option
def labelme(
    source: Path, images: Path | None, classes: str | None, extract_images: bool, out: Path, overwrite: bool
) -> None:
    """Convert Labelme JSON files.

    Shapes without an area (points and lines) are skipped; shapes of one label and group become one object.
    """
    from frcnn.data.formats.labelme import labelme_to_coco

    _check_new(out, overwrite)
    _write(labelme_to_coco(source, images=images, classes=_names(classes), extract_images=extract_images), out)


@convert.command("via", epilog=example("frcnn convert via via_export.json --attribute type --out instances_train.json"))
@click.argument("file", type=PATH)
@images_option("that of the file")
@classes_option
@click.option("--attribute", help="Region attribute that is the class.  [default: the only one]")
@out_option
def via(
    file: Path, images: Path | None, classes: str | None, attribute: str | None, out: Path, overwrite: bool
) -> None:
    """Convert a VGG Image Annotator file.

    Takes JSON and CSV exports and projects of the versions 1 to 3. The class is a region attribute.
    """
    from frcnn.data.formats.via import via_to_coco

    _check_new(out, overwrite)
    _write(via_to_coco(file, images=images, classes=_names(classes), attribute=attribute), out)


def _names(classes: str | None) -> list[str]:
    return [name.strip() for name in classes.split(",") if name.strip()] if classes else []


def _check_new(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise UserError(f"--out is {out}, which exists already; give another path, or --overwrite")


def _write(conversion: Conversion, out: Path) -> None:
    """Write the tables and print their counts, the report and where the images are."""
    from frcnn.data.formats.builder import to_json

    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, to_json(conversion.tables))
    tables = conversion.tables
    images, objects, classes = (len(tables[key]) for key in ("images", "annotations", "categories"))
    empty = images - len({annotation["image_id"] for annotation in tables["annotations"]})
    click.echo(f"{out}: {images} images ({empty} without objects), {objects} objects, {classes} classes")
    for line in conversion.report.lines():
        # File and class names may contain what the terminal's encoding cannot express.
        click.echo(line.encode("utf-8", "backslashreplace").decode())
    if conversion.images is not None:
        click.echo(f"images: {conversion.images}")
