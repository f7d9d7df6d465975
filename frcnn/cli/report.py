"""``frcnn report``: one HTML page on a model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from frcnn.cli.console import OUT_FOLDER, PATH, counted, example
from frcnn.cli.evaluated_split import EvaluatedSplit, split_options
from frcnn.errors import UserError, print_message
from frcnn.startup import import_tensorflow


@click.command(
    epilog=example(
        "frcnn report runs/bccd/model --out report",
        "frcnn report runs/bccd/model bccd --split test --against runs/earlier/model --out report",
        "frcnn report runs/aerial/model aerial --tile 1024 --out report",
    )
)
@click.argument("model", type=PATH)
@click.argument("data", type=PATH, required=False)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder for index.html and report.json.")
@split_options("DATA")
@click.option("--against", type=PATH, help="Model folder to compare with, on the same images.")
def report(chosen: EvaluatedSplit, out: Path, against: Path | None) -> None:
    """Write a report on a model.

    MODEL is a model folder, DATA a COCO folder (by default the one that the model was trained on). The page shows the
    numbers with their uncertainty, curves, errors with examples, the confusion matrix, classes and sizes. It is a
    single file that needs no network.
    """
    import_tensorflow()
    tiling = chosen.tiling
    from frcnn.distributed import connect
    from frcnn.evaluation.evaluate import DetectedSplit, detect_model
    from frcnn.report.page import ReportInput, write_report
    from frcnn.tiling import detection_name, thresholds_mismatch
    from frcnn.training.folders import METRICS_FILE
    from frcnn.training.metrics_file import read_records
    from frcnn.weights.model_files import METRICS
    from frcnn.weights.model_folder import ModelFolder, read_model_folder
    from frcnn.weights.score_thresholds import read_thresholds

    world = connect()
    with world.abort_together():
        world.init()
        with world.raise_together():
            saved = read_model_folder(chosen.model)
            other = read_model_folder(against) if against else None

        def detect(folder: ModelFolder) -> DetectedSplit:
            return detect_model(
                folder, lambda: chosen.find_index(saved.config), world, chosen.batch_size, counted, tiling, chosen.test
            )

        index, results, unread = detect(saved)
        compared = detect(other) if other else None
    if not world.is_main:
        return
    for line in index.summary.lines():
        print_message(line)
    if compared and compared.split.class_names != index.class_names:
        raise UserError(
            f"--against is {against}, whose classes are {', '.join(compared.split.class_names)}; expected those of "
            f"{chosen.model}: {', '.join(index.class_names)}"
        )
    model = chosen.model
    metrics = model / METRICS
    thresholds = read_thresholds(model, saved.class_names)
    if mismatch := thresholds_mismatch(thresholds, tiling, chosen.test):
        print_message(mismatch)
    given = ReportInput(
        model=str(model),
        split=chosen.name,
        config=saved.config,
        index=index,
        results=results,
        thresholds=thresholds,
        model_metrics=json.loads(metrics.read_text()) if metrics.is_file() else {},
        records=read_records(model.parent / METRICS_FILE)[0],
        unreadable=len(unread),
        detection=detection_name(tiling, chosen.test),
        against=(str(against), compared.results) if compared else None,
    )
    click.echo(f"report: {write_report(out, given)}")
