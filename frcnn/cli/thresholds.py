"""``frcnn thresholds``: choose the score thresholds of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from frcnn.cli.console import counted, example
from frcnn.cli.evaluated_split import EvaluatedSplit, split_options
from frcnn.errors import UserError, print_message
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from frcnn.tiling import Tiling


@click.command(
    epilog=example(
        "frcnn thresholds --model runs/bccd/model",
        "frcnn thresholds --model runs/bccd/model --precision 0.95",
        "frcnn thresholds --model runs/aerial/model --data aerial --tile 1024",
    )
)
@split_options("--data")
@click.option("--precision", type=click.FloatRange(0, 1), help="Keep at least this precision, with the best recall.")
@click.option("--recall", type=click.FloatRange(0, 1), help="Keep at least this recall, with the best precision.")
def thresholds(chosen: EvaluatedSplit, precision: float | None, recall: float | None) -> None:
    """Choose the minimum scores of a model.

    Stores a threshold for each class in thresholds.json of the model folder, which predict, serve and drawn images then
    use unless a score is given. By default it is the one with the best F1, as training stores it. All values are
    counted at IoU 0.5 on the split. Give the --tile, --overlap and --test that the model will be used with: they
    change the scores.
    """
    if precision is not None and recall is not None:
        raise UserError("--precision and --recall exclude each other: a threshold can meet one of them; give one")
    import_tensorflow()
    tiling = chosen.tiling
    from frcnn.distributed import connect
    from frcnn.evaluation.evaluate import detect_model
    from frcnn.evaluation.matching import match_detections
    from frcnn.evaluation.thresholds import BEST_F1, Goal, thresholds_document
    from frcnn.weights.model_folder import read_model_folder
    from frcnn.weights.score_thresholds import store_thresholds

    goal = BEST_F1
    if precision is not None:
        goal = Goal("precision", precision)
    elif recall is not None:
        goal = Goal("recall", recall)
    world = connect()
    with world.abort_together():
        world.init()
        with world.raise_together():
            saved = read_model_folder(chosen.model)
        index, results, unread = detect_model(
            saved, lambda: chosen.find_index(saved.config), world, chosen.batch_size, counted, tiling, chosen.test
        )
    if not world.is_main:
        return
    for line in index.summary.lines():
        print_message(line)
    if unread:
        print_message(f"{len(unread)} images unreadable and counted as blank")
    document = thresholds_document(match_detections(index, results), index, chosen.name, goal, tiling, chosen.test)
    if document is None:
        raise UserError(
            f"no detection of {chosen.model} is correct in {index.source}, so that no threshold can be chosen; "
            "train longer, or check that the model and the data belong together"
        )
    store_thresholds(chosen.model, document)
    for line in _table(document, tiling):
        click.echo(line)
    for missed in _goals_missed(document):
        print_message(missed)


def _table(document: dict[str, Any], tiling: Tiling | None) -> list[str]:
    rows = {"all classes": document["overall"], **document["classes"]}
    width = max(map(len, rows))
    tiles = f", {tiling}" if tiling else ""
    lines = [
        f"{document['goal']} at IoU {document['iou']:g}, {document['images']} images of {document['split']}{tiles}",
        f"{'':<{width}}  threshold  precision  recall      F1  objects",
    ]
    for name, point in rows.items():
        if point is None:
            lines.append(f"{name:<{width}}  as for all classes: no object, or none found")
            continue
        values = (point["precision"], point["recall"], point["f1"])
        shown = f"{values[0]:>9.4f}  {values[1]:>6.4f}  {values[2]:>6.4f}"
        lines.append(f"{name:<{width}}  {point['threshold']:>9g}  {shown}  {point['objects']:>7}")
    return lines


def _goals_missed(document: dict[str, Any]) -> list[str]:
    rows = {"all classes": document["overall"], **document["classes"]}
    return [
        f"{name}: no threshold reaches a {document['goal']}; stored the one that comes closest"
        for name, point in rows.items()
        if point and not point["goal_met"]
    ]
