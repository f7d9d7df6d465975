"""The command line. Every verb imports what it needs when it runs, so that ``frcnn --help`` answers at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frcnn import __version__
from frcnn.errors import UserError
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from frcnn.config import Config
    from frcnn.data.coco import Index

MISTAKE, INTERRUPTED = 2, 130  # exit codes: the user's mistake; 128 + SIGINT, as shells have it


class Verbs(click.Group):
    """Tells a user's mistakes in one sentence and leaves quietly on Ctrl-C; other exceptions keep their trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as mistake:
            _tell(str(mistake))
            raise click.exceptions.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            _tell("interrupted")
            raise click.exceptions.Exit(INTERRUPTED) from None


def _example(*lines: str) -> str:
    """A help page's last paragraph, kept from being wrapped."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


PATH = click.Path(path_type=Path)
SPLITS = ("train", "validation", "test")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="frcnn")
def main() -> None:
    """Faster R-CNN for COCO-format data."""


@main.command(
    epilog=_example(
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

    config = load_config(file, list(overrides))
    import_tensorflow()
    from frcnn.training.trainer import train as run

    folder = run(config)
    if (folder / "metrics.json").exists():
        click.echo(f"model: {folder}")


@main.command(
    epilog=_example(
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
    model: Path, data: Path | None, split: str, images: Path | None, annotations: Path | None, batch_size: int, json_file: Path | None
) -> None:
    """Measure a model.

    Prints the 12 COCO numbers and the AP of each class.
    """
    if (images is None) != (annotations is None):
        raise UserError("--images and --annotations belong together; give both, or neither to use --data and --split")
    import_tensorflow()
    from frcnn.data.coco import match_classes
    from frcnn.evaluation.coco import evaluate_detections
    from frcnn.inference import Detector
    from frcnn.weights.model_folder import read_model_folder

    saved = read_model_folder(model)
    index = match_classes(_find_index(saved.config, data, split, images, annotations), saved.class_names)
    detector = Detector.load(model)
    with _counted(len(index.images), "evaluating") as count:
        results = detector.detect_index(index, batch_size=batch_size, progress=count)
    metrics = evaluate_detections(index, results)
    click.echo(f"{index.source}: {metrics.images} images, {metrics.objects} objects")
    for name, value in metrics.summary.items():
        click.echo(f"{name:<6} {value:.4f}")
    width = max(map(len, metrics.class_ap))
    for name, value in metrics.class_ap.items():
        click.echo(f"AP of {name:<{width}} {value:.4f}")
    if json_file:
        _write_json(json_file, {**metrics.to_json(), "model": str(model), "data": index.fingerprint})


@main.command(
    epilog=_example(
        "frcnn predict photo.jpg more_photos/ --model runs/bccd/model --out found",
    )
)
@click.argument("pictures", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_DIR...")
@click.option("--model", type=PATH, required=True, help="Model folder that train wrote.")
@click.option("--out", type=PATH, required=True, help="Folder for the drawn pictures and detections.json.")
@click.option("--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Draw detections of at least this score.")
def predict(pictures: tuple[Path, ...], model: Path, out: Path, score: float) -> None:
    """Find objects in pictures.

    Writes the pictures with boxes, and detections.json: all detections in the COCO results format, with the file name of each
    one's picture. Folders are searched through. A picture that cannot be read is reported, the others are done, and the exit
    code is 1.
    """
    from frcnn.prediction import RESULTS_FILE, find_pictures, predict_pictures

    jobs = find_pictures(pictures, out)
    import_tensorflow()
    from frcnn.inference import Detector

    detector = Detector.load(model)
    with _counted(len(jobs), "predicting") as count:
        unreadable = predict_pictures(detector, jobs, out, score, _tell, count)
    click.echo(f"{len(jobs) - unreadable} drawn pictures and {RESULTS_FILE} are in {out}")
    if unreadable:
        _tell(f"{unreadable} of {len(jobs)} pictures could not be read")
        raise click.exceptions.Exit(1)


@main.command(
    "check-dataset",
    epilog=_example(
        "frcnn check-dataset bccd",
        "frcnn check-dataset bccd --split train --config configs/bccd_r18_fpn.yaml",
    ),
)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--split", type=click.Choice(SPLITS), multiple=True, help="Only this one; may be given again.  [default: all that are there]")
@click.option("--config", "file", type=PATH, help="Recipe whose sizes and anchors suggestions are compared with.")
@click.option("--out", type=PATH, default=Path("runs/check"), show_default=True, help="Folder for a picture of examples per split.")
def check_dataset(folder: Path, split: tuple[str, ...], file: Path | None, out: Path) -> None:
    """Check a COCO folder before training.

    Prints counts, histograms, suggestions, and every bad annotation and image; draws examples with boxes. The exit code is 1
    where something is bad: training skips bad annotations and puts up with a small share of bad images.
    """
    from frcnn.config import load_config

    config = load_config(file)
    import_tensorflow()
    from frcnn.data.check import check_dataset as check

    clean = True
    for name, channel in _find_channels(folder, split):
        report = check(*channel, config, contact_sheet=out / f"{name}.png")
        click.echo(f"{report.to_text()}\n")
        clean &= report.clean
    if not clean:
        raise click.exceptions.Exit(1)


@main.command(
    "import-weights",
    epilog=_example(
        "frcnn import-weights fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --from torchvision --out coco",
        "frcnn import-weights model_final_280758.pkl --from detectron2 --out coco",
    ),
)
@click.argument("file", type=PATH)
@click.option("--from", "framework", type=click.Choice(("torchvision", "detectron2")), required=True, help="Whose file it is.")
@click.option("--out", type=PATH, required=True, help="Model folder to write.")
def import_weights(file: Path, framework: str, out: Path) -> None:
    """Make a model folder of another framework's weights.

    Prints what became of every tensor. A detector can be used at once (evaluate, predict) or be trained further (train
    weights=DIR, with the same classes or others); a classification ResNet is for training alone. Nothing in the file is executed.
    docs/weights.md says which files there are.
    """
    import_tensorflow()
    from frcnn.weights.import_weights import import_weights as run

    account = run(file, framework, out)
    click.echo(f"{file}: {account.network}" + (f", {len(account.class_names)} classes" if account.class_names else ", backbone alone"))
    click.echo(f"{account.used} tensors used")
    for name, option in sorted(account.settings.items()):
        click.echo(f"became {option}: {name}")
    for name, reason in sorted(account.left_out.items()):
        click.echo(f"left out: {name} ({reason})")
    click.echo(f"model: {out}")


@main.command("make-shapes", epilog=_example("frcnn make-shapes shapes --images 800 --seed 0"))
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--images", type=click.IntRange(5), default=800, show_default=True, help="Pictures in all; one in five is for validation.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Other seeds draw other pictures.")
def make_shapes(folder: Path, images: int, seed: int) -> None:
    """Draw a data set of simple shapes.

    It is for a first try without data of one's own, in COCO's layout. A folder that holds the same pictures already is left as
    it is.
    """
    from frcnn.data.shapes import make_shapes as draw

    click.echo(f"shapes: {draw(folder, images=images, seed=seed)}")


@main.command(epilog=_example("frcnn doctor"))
def doctor() -> None:
    """Report versions, devices and what is missing.

    The exit code is 1 where frcnn cannot work on this machine.
    """
    from frcnn.doctor import examine

    broken = 0
    for finding in examine():
        broken += not finding.works
        mark = " " if finding.works else "!"
        click.echo(f"{mark} {finding.topic:<14} {finding.found}" + (f"\n{'':17}-> {finding.advice}" if finding.advice else ""))
    if broken:
        raise click.exceptions.Exit(1)


def _find_index(config: Config, root: Path | None, split: str, images: Path | None, annotations: Path | None) -> Index:
    """The index that the options of evaluate name; by default that of the model's own data."""
    from frcnn.config import Data
    from frcnn.data.coco import find_channel, load_index

    if images and annotations:
        return load_index(images, annotations)
    data = Data(root=root) if root else config.data
    return load_index(*find_channel(data, split))


def _find_channels(folder: Path, splits: tuple[str, ...]) -> list[tuple[str, tuple[Path, Path]]]:
    """The named splits with their files; without names those that the folder has, of which there must be one."""
    from frcnn.config import Data
    from frcnn.data.channel import find_channel

    data = Data(root=folder)
    if splits:
        return [(split, find_channel(data, split)) for split in splits]
    found = []
    for split in SPLITS:
        with contextlib.suppress(UserError):
            found.append((split, find_channel(data, split)))
    return found or [(SPLITS[0], find_channel(data, SPLITS[0]))]  # raises, and says where it was looked for


@contextlib.contextmanager
def _counted(total: int, doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error where that is a terminal; gives the function that is told (done, all)."""
    from tqdm import tqdm

    with tqdm(total=total, desc=doing, unit="image", disable=None) as bar:

        def count(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield count


def _tell(sentence: str) -> None:
    click.echo(f"frcnn: {sentence}", err=True)


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
