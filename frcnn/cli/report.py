"""``frcnn report``: one HTML page on a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frcnn.cli.console import BOX_FORMATS, OUT_FOLDER, PATH, SPLITS, counted, example
from frcnn.cli.model import find_index_of
from frcnn.errors import UserError
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from frcnn.data.box_format import BoxFormat
    from frcnn.data.coco import Index


@click.command(
    epilog=example(
        "frcnn report runs/bccd/model --out report",
        "frcnn report runs/bccd/model bccd --split test --against runs/earlier/model --out report",
    )
)
@click.argument("model", type=PATH)
@click.argument("data", type=PATH, required=False)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder for index.html and report.json.")
@click.option("--split", type=click.Choice(SPLITS), default="validation", show_default=True)
@click.option("--images", type=PATH, help="Folder of images, with --annotations, instead of DATA and --split.")
@click.option("--annotations", type=PATH, help="COCO instances JSON file.")
@click.option("--box-format", type=click.Choice(BOX_FORMATS), help="Format of the boxes, as data.box_format.")
@click.option("--against", type=PATH, help="Model folder to compare with, on the same images.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images per batch.")
def report(
    model: Path,
    data: Path | None,
    out: Path,
    split: str,
    images: Path | None,
    annotations: Path | None,
    box_format: BoxFormat | None,
    against: Path | None,
    batch_size: int,
) -> None:
    """Write a report on a model.

    MODEL is a model folder, DATA a COCO folder (by default the one that the model was trained on). The page shows the
    numbers with their uncertainty, curves, errors with examples, the confusion matrix, classes and sizes. It is a
    single file that needs no network.
    """
    if (images is None) != (annotations is None):
        raise UserError("--images and --annotations must be given together, or neither to use DATA and --split")
    import_tensorflow()
    from frcnn.distributed import connect
    from frcnn.evaluation.evaluate import detect_model
    from frcnn.report.page import ReportInput, write_report
    from frcnn.training.folders import METRICS_FILE
    from frcnn.training.metrics_file import read_records
    from frcnn.weights.model_files import METRICS
    from frcnn.weights.model_folder import read_model_folder
    from frcnn.weights.score_thresholds import read_thresholds

    world = connect()
    with world.abort_together():
        world.init()
        with world.raise_together():
            saved = read_model_folder(model)
            other = read_model_folder(against) if against else None

        def find_index() -> Index:
            return find_index_of(saved.config, data, split, images, annotations, box_format)

        index, results, unread = detect_model(saved, find_index, world, batch_size, counted)
        compared = detect_model(other, find_index, world, batch_size, counted) if other else None
    if not world.is_main:
        return
    if compared and compared.split.class_names != index.class_names:
        raise UserError(
            f"--against is {against}, whose classes are {', '.join(compared.split.class_names)}; expected those of "
            f"{model}: {', '.join(index.class_names)}"
        )
    metrics = model / METRICS
    given = ReportInput(
        model=str(model),
        split=str(annotations) if annotations else split,
        config=saved.config,
        index=index,
        results=results,
        thresholds=read_thresholds(model, saved.class_names),
        model_metrics=json.loads(metrics.read_text()) if metrics.is_file() else {},
        records=read_records(model.parent / METRICS_FILE)[0],
        unreadable=len(unread),
        against=(str(against), compared.results) if compared else None,
    )
    click.echo(f"report: {write_report(out, given)}")
