"""A model's life: train, evaluate, predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frcnn.cli.console import OUT_FOLDER, PATH, SPLITS, check_output, counted, example
from frcnn.errors import UserError, print_message
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from frcnn.config import Config
    from frcnn.data.coco import Index


@click.command(
    epilog=example(
        "frcnn train --config configs/bccd_r18_fpn.yaml data.root=bccd training.epochs=20",
        "frcnn train --config configs/shapes_r18_fpn.yaml data.root=shapes optimizer.clip_norm=null",
    )
)
@click.option("--config", "file", type=PATH, required=True, help="Recipe: a YAML file such as those under configs/.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def train(file: Path, overrides: tuple[str, ...]) -> None:
    """Train a model.

    KEY=VALUE changes an option of the recipe; docs/configuration.md lists them all. The run's folder is the option
    'output'. Ctrl-C or SIGTERM saves and stops; the same command goes on from there.
    """
    from frcnn.config import load_config
    from frcnn.distributed import connect
    from frcnn.training.stop import StopRequest

    # Signals count from the start: those that come while TensorFlow is imported stop the run at its first step.
    with StopRequest() as stop:
        world = connect()
        with world.abort_together():
            with world.raise_together():
                config = load_config(file, list(overrides))
            import_tensorflow()
            from frcnn.training.trainer import train as run

            folder = run(config, world=world, stop=stop)
    if world.is_main and (folder / "metrics.json").exists():
        click.echo(f"model: {folder}")


@click.command(
    epilog=example(
        "frcnn evaluate --model runs/bccd/model --split test",
        "frcnn evaluate --model runs/bccd/model --images pictures --annotations instances.json --json metrics.json",
    )
)
@click.option("--model", type=PATH, required=True, help="Model folder that train wrote.")
@click.option("--data", type=PATH, help="COCO folder; by default the one that the model was trained on.")
@click.option("--split", type=click.Choice(SPLITS), default="validation", show_default=True)
@click.option("--images", type=PATH, help="Images folder, together with --annotations, in place of --data and --split.")
@click.option("--annotations", type=PATH, help="COCO instances JSON file.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images at a time.")
@click.option("--json", "json_file", type=PATH, help="Write the numbers into this file too.")
def evaluate(
    model: Path,
    data: Path | None,
    split: str,
    images: Path | None,
    annotations: Path | None,
    batch_size: int,
    json_file: Path | None,
) -> None:
    """Measure a model.

    Prints the 12 COCO numbers and the AP of each class.
    """
    if (images is None) != (annotations is None):
        raise UserError("--images and --annotations belong together; give both, or neither to use --data and --split")
    import_tensorflow()
    from frcnn.data.coco import match_classes
    from frcnn.data.unreadable_images import UnreadableImages
    from frcnn.distributed import connect
    from frcnn.evaluation.coco import evaluate_detections
    from frcnn.evaluation.split import detect_split, unreadable
    from frcnn.inference import Detector
    from frcnn.weights.model_folder import read_model_folder

    world = connect()
    with world.abort_together():
        world.init()
        with world.raise_together():
            if json_file and world.is_main:  # which alone writes it
                check_output(json_file, "--json", folder=False)
            saved = read_model_folder(model)
            index = match_classes(_find_index(saved.config, data, split, images, annotations), saved.class_names)
            detector = Detector.load(model)
        unreadable_images = UnreadableImages(index, saved.config.data.max_bad_image_share)
        with counted(len(index.images), "evaluating") as count:
            results = detect_split(detector, index, world, unreadable_images, batch_size, count)
        unread = unreadable(unreadable_images, world)
        with world.raise_together():
            unreadable_images.check(unread)
    if not world.is_main:
        return
    with counted(len(index.class_names), "comparing", "class") as count:
        metrics = evaluate_detections(index, results, count)
    blank = f", {len(unread)} of the images could not be read" if unread else ""
    click.echo(f"{index.source}: {metrics.images} images, {metrics.objects} objects{blank}")
    for name, value in metrics.summary.items():
        click.echo(f"{name:<6} {value:.4f}")
    width = max(map(len, metrics.class_ap))
    for name, value in metrics.class_ap.items():
        click.echo(f"AP of {name:<{width}} {value:.4f}")
    if json_file:
        write_json(
            json_file,
            {**metrics.to_json(), "unreadable_images": len(unread), "model": str(model), "data": index.fingerprint},
        )


@click.command(
    epilog=example(
        "frcnn predict photo.jpg more_photos/ --model runs/bccd/model --out found",
    )
)
@click.argument("pictures", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_DIR...")
@click.option("--model", type=PATH, required=True, help="Model folder that train wrote.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder for the drawn pictures and detections.json.")
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Draw detections of at least this score.",
)
def predict(pictures: tuple[Path, ...], model: Path, out: Path, score: float) -> None:
    """Find objects in pictures.

    Writes the pictures with boxes, and detections.json: all detections in the COCO results format, with the file name of each
    one's picture. Folders are searched through. A picture that cannot be read is reported, the others are done, and the exit
    code is 1.
    """
    from frcnn.prediction import RESULTS_FILE, find_images, predict_images

    jobs = find_images(pictures, out)
    import_tensorflow()
    from frcnn.inference import Detector

    detector = Detector.load(model)
    with counted(len(jobs), "predicting") as count:
        unreadable = predict_images(detector, jobs, out, score, print_message, count)
    click.echo(f"{len(jobs) - unreadable} drawn pictures and {RESULTS_FILE} are in {out}")
    if unreadable:
        print_message(f"{unreadable} of {len(jobs)} pictures could not be read")
        raise click.exceptions.Exit(1)


def _find_index(config: Config, root: Path | None, split: str, images: Path | None, annotations: Path | None) -> Index:
    """The index that the options of evaluate name; by default that of the model's own data."""
    from frcnn.config import Data
    from frcnn.data.coco import find_split, load_index

    if images and annotations:
        return load_index(images, annotations)
    data = Data(root=root) if root else config.data
    return load_index(*find_split(data, split))


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value) + "\n")
