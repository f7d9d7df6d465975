"""The folder that training leaves and everything else starts from.

model/weights.safetensors   every variable by its path, float32
model/config.yaml           the whole configuration
model/labels.json           classes by label
model/metrics.json          COCO numbers, data fingerprint, versions
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from frcnn.config import Config, load_config, save_config
from frcnn.errors import UserError
from frcnn.weights.checkpoint_file import PICKLED

WEIGHTS, CONFIG, LABELS, METRICS = "weights.safetensors", "config.yaml", "labels.json", "metrics.json"
BACKBONE = "backbone/"  # what a file of pretrained features alone holds
PREDICTORS = ("roi_head/class_logits/", "roi_head/box_deltas/")  # the tensors whose shapes the classes decide


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says of itself; the weights stay on disk until asked for.

    Attributes:
        class_names: label k in 1..K is ``class_names[k - 1]``.
        category_ids: the ids of the training file, label k is ``category_ids[k - 1]``.
    """

    path: Path
    config: Config
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def write_model_folder(
    folder: Path,
    model: keras.Model,
    config: Config,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    metrics: dict[str, Any],
) -> None:
    """Write all four files. ``metrics.json`` comes last: with it the model is whole.

    Raises:
        UserError: the disk is full or forbids it; the model that was there is as it was.
    """
    labels = [
        {"label": label, "name": name, "category_id": category_id}
        for label, (name, category_id) in enumerate(zip(class_names, category_ids, strict=True), start=1)
    ]
    _write_together(
        folder,
        {
            WEIGHTS: lambda path: safetensors.numpy.save_file(tensors_of(model), path),
            CONFIG: lambda path: save_config(config, path),
            LABELS: lambda path: _write_json(labels, path),
            METRICS: lambda path: _write_json(metrics, path),
        },
    )


def write_backbone_folder(folder: Path, tensors: dict[str, np.ndarray], config: Config) -> None:
    """Write pretrained features, which training can start from and nothing else can use: no labels, no metrics.

    Raises:
        UserError: as for :func:`write_model_folder`.
    """
    _write_together(
        folder,
        {
            WEIGHTS: lambda path: safetensors.numpy.save_file(tensors, path),
            CONFIG: lambda path: save_config(config, path),
        },
        obsolete=(LABELS, METRICS),  # of a detector that was there before
    )


def _write_together(folder: Path, files: dict[str, Callable[[Path], object]], obsolete: Sequence[str] = ()) -> None:
    """Write all files aside, and only then move them into place, in their order: what fails leaves the old."""
    aside = folder / f".aside-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".aside-*"):  # of a process that was killed while writing
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir()
        for name, write in files.items():
            write(aside / name)
        for name in obsolete:
            (folder / name).unlink(missing_ok=True)
        for name in files:
            os.replace(aside / name, folder / name)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"model folder {folder} cannot be written ({' '.join(str(error).split())}); make room there or choose another, and run the "
            "same command again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_model_folder(folder: Path) -> ModelFolder:
    """Config and classes of a model folder.

    Raises:
        UserError: the folder or one of its files is missing or damaged.
    """
    for name in (WEIGHTS, CONFIG, LABELS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a model folder: {name} is missing; give the folder 'model' that frcnn train wrote"
            )
    try:
        labels = json.loads((folder / LABELS).read_text())
        names = tuple(str(entry["name"]) for entry in labels)
        category_ids = tuple(int(entry["category_id"]) for entry in labels)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / LABELS} is damaged ({error}); expected a list of label, name and category_id"
        ) from error
    return ModelFolder(folder, load_config(folder / CONFIG), names, category_ids)


def tensors_of(model: keras.Model) -> dict[str, np.ndarray]:
    """All variables by path, such as ``backbone/stem/conv/kernel``."""
    return {variable.path: np.ascontiguousarray(variable.numpy()) for variable in model.variables}


def load_weights(
    model: keras.Model, file: Path, *, new_classes: bool = False, own_predictors: bool = False
) -> list[str]:
    """Set every variable of the model from a safetensors file.

    Args:
        new_classes: keep the model's own class and box predictors where the file's have another shape, and everything
            but the backbone where the file holds a backbone alone.
        own_predictors: keep the model's own predictors even where the file's would fit, being of other classes.

    Returns:
        Names of the tensors that were kept, or of their layers where whole ones were; empty where the file filled everything.

    Raises:
        UserError: unreadable file, missing or left-over tensors, or a shape that does not fit; names the tensor.
    """
    if file.suffix in PICKLED:
        raise UserError(
            f"weights file {file} is another framework's; run 'frcnn import-weights {file} --from torchvision --out DIR', or --from "
            "detectron2, and give weights=DIR"
        )
    try:
        tensors = safetensors.numpy.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"weights file {file} cannot be read ({error}); expected a .safetensors file that frcnn wrote"
        ) from error
    wanted = {variable.path: variable for variable in model.variables}
    kept = []
    if new_classes and all(name.startswith(BACKBONE) for name in tensors):
        kept = sorted({name.partition("/")[0] for name in wanted if not name.startswith(BACKBONE)})
        wanted = {name: variable for name, variable in wanted.items() if name.startswith(BACKBONE)}
    for difference, names in (
        ("lacks", wanted.keys() - tensors.keys()),
        ("has besides", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise UserError(
                f"weights file {file} belongs to another architecture: it {difference} {len(names)} tensors, first {min(names)!r}; use the "
                "config that it was trained with, or take another framework's file through frcnn import-weights"
            )
    for name, variable in wanted.items():
        fits = tensors[name].shape == tuple(variable.shape)
        if name.startswith(PREDICTORS) and (own_predictors or (new_classes and not fits)):
            kept.append(name)
        elif fits:
            variable.assign(tensors[name])
        else:
            raise UserError(
                f"tensor {name!r} of {file} has shape {tensors[name].shape}, the model's has {tuple(variable.shape)}"
            )
    return kept
