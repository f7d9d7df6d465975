"""A recipe for a dataset on this machine: statistics, measured speed, choices, and the YAML file with their reasons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from frcnn.config import Config, load_config
from frcnn.config.options import insert_value
from frcnn.data.coco import Index, check_same_classes, find_split, load_index
from frcnn.data.statistics import Statistics, dataset_statistics
from frcnn.errors import UserError
from frcnn.training.probe import find_device, measure_speed
from frcnn.training.recipe import Choice, choose_recipe, first_guess
from frcnn.training.time_budget import Device, Speed, Weights, foreseeable_problems
from frcnn.weights.model_files import CONFIG, LABELS
from frcnn.weights.published import resolve_weights

REMEASURE = 1.5  # the speed is measured again if the chosen step is so many times more or less work than the measured
REMEASURE_MINUTES = 10.0  # and if there is time for it


def suggest_recipe(
    folder: Path,
    minutes: float | None = None,
    weights: str | None = None,
    kind: str | None = None,
    report: Callable[[str], None] = lambda _: None,
    measure: Callable[[Index, Config], float] = measure_speed,
    started: float | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """The text of a recipe file for the dataset of a folder.

    Args:
        minutes: of wall-clock time for the run; None: as long as the data are worth.
        weights: model folder or name of fetched weights to start from.
        kind: ``"cpu"`` or ``"gpu"``; None: a GPU if there is one.
        report: gets a line about each stage.
        measure: training images per second of a configuration on the images.
        started: ``time.monotonic()`` since which the minutes count, the measurement included; None: they count from the
            start of the training.
        overrides: KEY=VALUE; those of the section ``data`` say how the dataset is read.

    Raises:
        UserError: data or weights cannot be used.
    """
    base = load_config(None, [f"data.root={folder}", *(text for text in overrides if text.startswith("data."))])
    index, validation = _load(base)
    known = _read_weights(weights) if weights else None
    for read in filter(None, (index, validation)):
        for line in read.summary.lines():
            report(line)
    data = dataset_statistics(index, validation, known.config if known else Config())
    device = find_device(kind)
    report(f"{folder}: {data.images} images, {data.classes} classes, {data.boxes} boxes; measuring this {device.kind}")
    speed = Speed(1.0, *first_guess(data, device, known))
    for attempt in range(2):
        config = _to_config(choose_recipe(data, device, speed, None if attempt == 0 else minutes, known), base)
        if attempt == 0:
            config = _with_size(config, speed)
        speed = Speed(measure(index, config), config.image.min_size[0], config.backbone.name)
        report(f"{speed.backbone} at {speed.min_size} pixels: {speed.images_per_second:.3g} images/s")
        left = minutes
        if minutes is not None and started is not None:
            left = max(round(minutes - (time.monotonic() - started) / 60, 2), 0.01)
        choices = choose_recipe(data, device, speed, left, known)
        chosen = _to_config(choices, base)
        work = speed.at(chosen.image.min_size[0], chosen.backbone.name) / speed.images_per_second
        if 1 / REMEASURE < work < REMEASURE or (minutes is not None and minutes < REMEASURE_MINUTES):
            break
    rate = speed.at(chosen.image.min_size[0], chosen.backbone.name)
    for problem in foreseeable_problems(data, rate, left, chosen.image.min_size[0]):
        report(problem)
    return recipe_text(choices, folder, data, device, speed)


def recipe_text(choices: Sequence[Choice], folder: Path, data: Statistics, device: Device, speed: Speed) -> str:
    """A recipe file: one option a line, each with its reason."""
    lines = [
        f"# Suggested for {folder}: {data.images} training and {data.validation_images} validation images, "
        f"{data.classes} classes, {data.boxes} boxes.",
        f"# Measured: {speed.images_per_second:.3g} images/s in training on this {device.kind} with {speed.backbone} "
        f"at {speed.min_size} pixels.",
        f"output: {_value(str(Path('runs') / (folder.resolve().name or 'dataset')))}",
    ]
    sections: dict[str, list[Choice]] = {"data": [Choice("data.root", str(folder), "")]}
    for choice in choices:
        section = choice.option.partition(".")[0] if "." in choice.option else ""
        sections.setdefault(section, []).append(choice)
    lines += [_line(choice.option, choice) for choice in sections.pop("", [])]
    for section, members in sections.items():
        lines.append(f"{section}:")
        lines += [f"  {_line(choice.option.partition('.')[2], choice)}" for choice in members]
    return "\n".join(lines) + "\n"


def _line(name: str, choice: Choice) -> str:
    return f"{name}: {_value(choice.value)}" + (f"  # {choice.reason}" if choice.reason else "")


def _value(value: Any) -> str:
    """A value in YAML, on one line; text is quoted as in JSON, which YAML contains, where YAML needs quotes."""
    if isinstance(value, str):
        plain = yaml.safe_dump(value, width=10**6).removesuffix("\n").removesuffix("\n...")
        return plain if "\n" not in plain and " #" not in plain else json.dumps(value)
    return json.dumps(value)


def _load(config: Config) -> tuple[Index, Index | None]:
    box_format = config.data.box_format
    index = load_index(*find_split(config.data, "train"), box_format=box_format)
    try:
        split = find_split(config.data, "validation")
    except UserError:
        return index, None
    return index, check_same_classes(index, load_index(*split, box_format=box_format))


def _read_weights(name: str) -> Weights:
    source = resolve_weights(Path(name))
    folder = source if source.is_dir() else source.parent
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"weights {name} have no {CONFIG} beside them, from which a recipe could take their architecture; give a "
            "model folder, as frcnn import-weights writes it"
        )
    return Weights(name, load_config(folder / CONFIG), detector=(folder / LABELS).is_file())


def _to_config(choices: Sequence[Choice], base: Config) -> Config:
    tree: dict[str, Any] = base.model_dump(exclude_unset=True)
    for choice in choices:
        insert_value(Config, tree, choice.option, choice.value)
    return Config.from_tree(tree, "the suggested recipe")


def _with_size(config: Config, speed: Speed) -> Config:
    """The configuration at the size and backbone of the first measurement."""
    size, longest = config.image.min_size[0], config.image.max_size
    tree = config.model_dump(exclude_unset=True)
    tree["image"] = {
        **tree["image"], "min_size": (speed.min_size,), "max_size": round(longest * speed.min_size / size)
    }  # fmt: skip
    tree["backbone"] = {**tree.get("backbone", {}), "name": speed.backbone}
    return Config.from_tree(tree, "the suggested recipe")
