"""predict: drawn images, detections, label files for annotation tools, and the images to label next."""

from __future__ import annotations

from pathlib import Path

import click

from frcnn.cli.console import OUT_FOLDER, PATH, TEST_OPTIONS, counted, example
from frcnn.cli.tile import tiling_of, tiling_options
from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.startup import import_tensorflow

LABEL_FORMATS = ("coco-dataset", "yolo", "voc", "manifest", "label-studio")
DEFAULT_SCORE = 0.5  # minimum score of drawn detections, for models without thresholds
ABOVE = 0.3  # default minimum score of labels


@click.command(
    epilog=example(
        "frcnn predict photo.jpg more_photos/ --model runs/bccd/model --out found",
        "frcnn predict unlabeled/ --model runs/bccd/model --out next --format coco-dataset --uncertain 50",
    )
)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_DIR...")
@click.option("--model", type=PATH, required=True, help="Model folder that train wrote.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder for the drawn images and detections.json.")
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Minimum score of the detections that are drawn.  [default: the model's thresholds.json; without it 0.5]",
)
@tiling_options
@click.option(
    "--format",
    "label_format",
    type=click.Choice(LABEL_FORMATS),
    help="Also write labels/ for an annotation tool, with a file format that it imports.",
)
@click.option(
    "--above",
    type=click.FloatRange(0, 1),
    help="Minimum score of the detections in labels/: deleting a box takes less time than drawing one.  "
    f"[default: {ABOVE}]",
)
@click.option(
    "--images-uri", help="Address of the images folder for --format manifest (s3://bucket/folder) and label-studio."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing labels/.")
@click.option(
    "--uncertain",
    type=click.IntRange(1),
    metavar="N",
    help="Also list the N images to label next: the least certain ones that differ from each other.",
)
@click.option("--test", metavar="OPTIONS", help=TEST_OPTIONS)
def predict(
    paths: tuple[Path, ...],
    model: Path,
    out: Path,
    score: float | None,
    tile: int | None,
    overlap: float | None,
    label_format: str | None,
    above: float | None,
    images_uri: str | None,
    overwrite: bool,
    uncertain: int | None,
    test: str | None,
) -> None:
    """Detect objects in images.

    Writes copies of the images with boxes, and detections.json: all detections in the COCO results format, with the
    file name of the image. Folders are searched recursively. An image that cannot be read or drawn is reported and
    skipped, and the exit code is 1. Ctrl-C stops, and writes the detections so far.
    """
    from frcnn.data.formats.label_files import check_image_names
    from frcnn.prediction.predict import LABELS_FOLDER, RESULTS_FILE, find_images, predict_images, write_label_folder

    tasks = find_images(paths, out, print_message)
    if not label_format and (above is not None or images_uri or overwrite):
        raise UserError("--above, --images-uri and --overwrite are for labels/; give --format as well")
    above = ABOVE if above is None else above
    if label_format:
        check_image_names([task.name for task in tasks], label_format, images_uri)
        if (out / LABELS_FOLDER).exists() and not overwrite:
            raise UserError(
                f"{out / LABELS_FOLDER} exists already; choose another --out, or replace it with --overwrite"
            )
    import_tensorflow()
    tiling = tiling_of(tile, overlap)
    from frcnn.inference import Detector
    from frcnn.tiling import TiledDetector, thresholds_mismatch

    detector = Detector.load(model, test)
    tiled = TiledDetector(detector, tiling) if tiling else detector
    threshold = (detector.thresholds or DEFAULT_SCORE) if score is None else score
    if score is None and (mismatch := thresholds_mismatch(detector.thresholds, tiling, test)):
        print_message(mismatch)
    with counted(len(tasks), "predicting") as count:
        unreadable, not_drawn, images = predict_images(tiled, tasks, out, threshold, print_message, count)
    click.echo(f"{out}: {len(tasks) - unreadable - not_drawn} drawn images and {RESULTS_FILE}")
    click.echo(f"minimum score of drawn detections: {threshold}")
    if label_format:
        boxes = write_label_folder(detector, images, out, label_format, above, images_uri)
        click.echo(f"{out / LABELS_FOLDER}: {boxes} boxes of score {above:g} or more in {len(images)} images")
    if uncertain:
        from frcnn.prediction.uncertain import LIST_FILE, SHEET_FILE, DetectedImage, write_uncertain

        detected = [DetectedImage(image.task.source, image.detections) for image in images]
        number = write_uncertain(detector, detected, threshold, uncertain, out)
        click.echo(f"{out}: {number} images to label next in {LIST_FILE} and {SHEET_FILE}")
    for number, problem in ((unreadable, "read"), (not_drawn, "drawn")):
        if number:
            print_message(f"{number} of {len(tasks)} images could not be {problem}")
    if unreadable or not_drawn:
        raise click.exceptions.Exit(EXIT_FAILURE)
