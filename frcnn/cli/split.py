"""split: divide a COCO file into training, validation and test."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frcnn.atomic import write_atomically
from frcnn.cli.console import OUT_FOLDER, PATH, example
from frcnn.errors import UserError

if TYPE_CHECKING:
    from frcnn.data.split_dataset import Division

CLASSES_SHOWN = 30


@click.command(
    "split",
    epilog=example(
        "frcnn split annotations.json --val 0.2 --stratify",
        "frcnn split all.json --val 0.15 --test 0.15 --by patient_id --seed 1 --out annotations",
        "frcnn split _annotations.coco.json --val 0.2 --by .rf.  # augmented copies of one image stay together",
    ),
)
@click.argument("file", type=PATH)
@click.option(
    "--val", type=click.FloatRange(0, 1, min_open=True, max_open=True), required=True, help="Share for validation."
)
@click.option(
    "--test", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Share for testing.  [default: none]"
)
@click.option(
    "--by",
    metavar="FIELD|TEXT",
    help="Keep images together that agree in this field of the image table, or in the file name up to this text.",
)
@click.option("--stratify", is_flag=True, help="Keep the shares of the objects of every class.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other seeds give other divisions.")
@click.option("--out", type=OUT_FOLDER, help="Folder for instances_train.json and so on.  [default: that of FILE]")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def split(
    file: Path, val: float, test: float, by: str | None, stratify: bool, seed: int, out: Path | None, overwrite: bool
) -> None:
    """Split a COCO file into train, val and test.

    Writes instances_train.json, instances_val.json and instances_test.json. Images stay where they are. The
    result depends on the file's images, the shares and the seed alone.
    """
    from frcnn.data.formats.values import read_json
    from frcnn.data.split_dataset import split_dataset

    if not val + test < 1:  # also refuses NaN
        raise UserError(f"--val {val:g} and --test {test:g} leave nothing for training; their sum must be below 1")
    shares = {"train": 1 - val - test, "val": val, **({"test": test} if test else {})}
    files = {name: (out or file.parent) / f"instances_{name}.json" for name in shares}
    _check_new(file, files.values(), overwrite)
    try:
        division = split_dataset(read_json(file), shares, by=by, stratify=stratify, seed=seed)
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith((str(file), "--")) else f"{file}: {message}") from None
    _write(division, files)
    _print_statistics(division, shares)
    options = {"train": "train", "val": "validation"}
    paths = " ".join(f"data.{option}.annotations={shlex.quote(str(files[name]))}" for name, option in options.items())
    click.echo(f"train with: data.train.images=IMAGES data.validation.images=IMAGES {paths}")


def _check_new(source: Path, files: Iterable[Path], overwrite: bool) -> None:
    for file in files:
        if file.exists() and file.resolve() == source.resolve():
            raise UserError(f"{file} is the file to divide and would be replaced; give another folder with --out")
        if file.exists() and not overwrite:
            raise UserError(f"{file} exists already; give another folder with --out, or --overwrite")


def _write(division: Division, files: Mapping[str, Path]) -> None:
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(division.tables[name]) + "\n")
        click.echo(f"{file}")


def _print_statistics(division: Division, shares: Mapping[str, float]) -> None:
    """Print images, groups and objects of each split, and how the objects of each class are shared out."""
    from frcnn.data.problems import first_few

    objects = {name: sum((group.objects for group in groups), Counter()) for name, groups in division.groups.items()}
    click.echo(f"{'':<12}{'images':>10}{'groups':>10}{'objects':>10}")
    for name, groups in division.groups.items():
        images = sum(len(group.images) for group in groups)
        click.echo(f"{name:<12}{images:>10}{len(groups):>10}{objects[name].total():>10}")
    totals = sum(objects.values(), Counter())
    rows = []
    for category, total in totals.items():
        parts = {name: objects[name][category] / total for name in shares}
        rows.append((max(abs(parts[name] - shares[name]) for name in shares), category, parts))
    rows.sort(key=lambda row: (-row[0], row[1]))
    click.echo(f"\nshare of the objects of each class, those farthest from {_percent(shares)} first")
    names = _class_names(division)
    for _, category, parts in rows[:CLASSES_SHOWN]:
        click.echo(f"  {_percent(parts)}  of {totals[category]:>7}  {names.get(category, category)}")
    if len(rows) > CLASSES_SHOWN:
        click.echo(f"  and {len(rows) - CLASSES_SHOWN} more classes")
    for name in shares:
        if missing := [str(names.get(category, category)) for category in totals if not objects[name][category]]:
            click.echo(f"note: {name} has no objects of {first_few(missing)}")
    for note in division.notes:
        click.echo(f"note: {note}")


def _percent(parts: Mapping[str, float]) -> str:
    return " / ".join(f"{name} {share:6.1%}" for name, share in parts.items())


def _class_names(division: Division) -> dict[int | None, str]:
    from frcnn.data.formats.values import clean_name
    from frcnn.data.json_values import as_integer

    categories = next(iter(division.tables.values())).get("categories")
    entries = categories if isinstance(categories, list) else []
    return {as_integer(entry.get("id")): clean_name(entry.get("name")) for entry in entries if isinstance(entry, dict)}
