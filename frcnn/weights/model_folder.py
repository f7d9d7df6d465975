"""The model folder: what training writes, and evaluation, prediction, serving and export read.

model/weights.safetensors   all variables by path, float32
model/config.yaml           the complete configuration
model/labels.json           classes by label
model/metrics.json          COCO metrics, dataset fingerprint, versions
model/thresholds.json       score thresholds by class, if there was a validation split; see score_thresholds.py
model/SHA256SUMS            hashes of these files, verified when they are read
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from frcnn.atomic import PREFIX, flush_to_disk, remove_incomplete
from frcnn.config import Config, load_config, save_config
from frcnn.errors import UserError
from frcnn.weights.checkpoint_file import PICKLED
from frcnn.weights.model_files import CONFIG, HASHES, LABELS, METRICS, REQUIRED, THRESHOLDS, WEIGHTS
from frcnn.weights.model_hashes import verify_hashes, write_hashes

BACKBONE = "backbone/"  # prefix of all tensors in a file with a pretrained backbone only
# Variables that belong to the classes: all predictors of a single head, the scores of a cascade's stages.
PREDICTOR = re.compile(r"roi_head/(class_logits|box_deltas|stage\d+/class_logits)/")


@dataclass(frozen=True)
class ModelFolder:
    """Configuration and classes of a model folder; the weights are not loaded.

    Attributes:
        class_names: label k in 1..K is ``class_names[k - 1]``.
        category_ids: ids in the annotation file of training: label k is ``category_ids[k - 1]``.
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
    thresholds: dict[str, Any] | None = None,
) -> None:
    """Write all files; the hashes are the last, which completes the model.

    Args:
        thresholds: content of ``thresholds.json``; None for a model without the file.

    Raises:
        UserError: the folder cannot be written; a previous model in it is unchanged.
    """
    labels = [
        {"label": label, "name": name, "category_id": category_id}
        for label, (name, category_id) in enumerate(zip(class_names, category_ids, strict=True), start=1)
    ]
    _write_together(
        folder,
        {
            WEIGHTS: lambda path: _write_tensors(tensors_of(model), path),
            CONFIG: lambda path: save_config(config, path),
            LABELS: lambda path: _write_json(labels, path),
            METRICS: lambda path: _write_json(metrics, path),
            **({THRESHOLDS: lambda path: _write_json(thresholds, path)} if thresholds else {}),
        },
        obsolete=() if thresholds else (THRESHOLDS,),  # of the weights that are replaced
    )


def write_backbone_folder(folder: Path, tensors: dict[str, np.ndarray], config: Config) -> None:
    """Write a pretrained backbone, which only training can start from: without labels and metrics.

    Raises:
        UserError: as for :func:`write_model_folder`.
    """
    _write_together(
        folder,
        {
            WEIGHTS: lambda path: _write_tensors(tensors, path),
            CONFIG: lambda path: save_config(config, path),
        },
        obsolete=(LABELS, METRICS, THRESHOLDS),  # of a detector that was in this folder
    )


def copy_model_folder(source: Path, folder: Path) -> None:
    """Write a copy of a model folder of this version, which has hashes of its files.

    Raises:
        UserError: as for :func:`write_model_folder`, or a file of the source is missing or damaged.
    """
    verify_hashes(source, (WEIGHTS, CONFIG, LABELS, METRICS, THRESHOLDS))
    with_thresholds = (source / THRESHOLDS).is_file()
    names = (WEIGHTS, CONFIG, LABELS, METRICS, *((THRESHOLDS,) if with_thresholds else ()))
    files: dict[str, Callable[[Path], object]] = {name: partial(shutil.copyfile, source / name) for name in names}
    _write_together(folder, files, obsolete=() if with_thresholds else (THRESHOLDS,))


def _write_together(folder: Path, files: dict[str, Callable[[Path], object]], obsolete: Sequence[str] = ()) -> None:
    """Write all files under a temporary folder, then move them into place in order: a failure leaves the old ones."""
    temporary = folder / f"{PREFIX}{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_incomplete(folder)
        temporary.mkdir()
        for name, write in files.items():
            write(temporary / name)
            flush_to_disk(temporary / name)
        write_hashes(temporary, list(files))
        flush_to_disk(temporary / HASHES)
        for name in [*obsolete, *files, HASHES]:
            _remove_folder(folder / name)
        for name in obsolete:
            (folder / name).unlink(missing_ok=True)
        for name in [*files, HASHES]:
            os.replace(temporary / name, folder / name)
        flush_to_disk(folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"model folder {folder} cannot be written ({' '.join(str(error).split())}); free disk space or choose "
            "another folder, and rerun the same command"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_folder(path: Path) -> None:
    """Remove an empty folder in the place of a file, which could not be replaced; raises OSError for other folders."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()


def _write_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    # save_file would create a file that only its owner can read.
    path.write_bytes(safetensors.numpy.save(tensors))


def _write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_model_folder(folder: Path) -> ModelFolder:
    """Read configuration and classes of a model folder.

    Raises:
        UserError: the folder or one of its files is missing or damaged.
    """
    for name in REQUIRED:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a model folder: {name} is missing; give the folder 'model' that frcnn train wrote"
            )
    verify_hashes(folder, (CONFIG, LABELS))
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
    """Load the model's variables from a safetensors file.

    Args:
        new_classes: keep the model's class and box predictors if the file's have other shapes, and everything but the
            backbone if the file contains a backbone only.
        own_predictors: keep the model's predictors even if the file's have the same shape: they are of other classes.

    Returns:
        Names of the tensors that were not loaded, or of their layers for a file with a backbone only.

    Raises:
        UserError: unreadable file, missing or unexpected tensors, or a shape that does not fit; names the tensor.
    """
    if file.suffix in PICKLED:
        raise UserError(
            f"weights file {file} belongs to another framework; run "
            f"'frcnn import-weights {file} --from torchvision --out DIR' (or --from detectron2), and give weights=DIR"
        )
    try:
        tensors = safetensors.numpy.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"weights file {file} cannot be read ({error}); expected a .safetensors file that frcnn wrote"
        ) from error
    verify_hashes(file.parent, (file.name,))
    wanted = {variable.path: variable for variable in model.variables}
    kept = []
    if new_classes and all(name.startswith(BACKBONE) for name in tensors):
        kept = sorted({name.partition("/")[0] for name in wanted if not name.startswith(BACKBONE)})
        wanted = {name: variable for name, variable in wanted.items() if name.startswith(BACKBONE)}
    for difference, names in (
        ("missing", wanted.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise UserError(
                f"weights file {file} belongs to another architecture: {len(names)} {difference} tensors, first "
                f"{min(names)!r}; use the configuration it was trained with, or import another framework's file with "
                "frcnn import-weights"
            )
    for name, variable in wanted.items():
        fits = tensors[name].shape == tuple(variable.shape)
        if PREDICTOR.match(name) and (own_predictors or (new_classes and not fits)):
            kept.append(name)
        elif fits:
            variable.assign(tensors[name])
        else:
            raise UserError(
                f"tensor {name!r} of {file} has shape {tensors[name].shape}, the model's has {tuple(variable.shape)}"
            )
    return kept
