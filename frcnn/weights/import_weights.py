"""Import of another framework's checkpoint into a model folder, with a report on every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights import detectron2, torchvision
from frcnn.weights.checkpoint_file import read_checkpoint
from frcnn.weights.conversion import Translation, convert, network_name
from frcnn.weights.model_folder import BACKBONE, write_backbone_folder, write_model_folder

FRAMEWORKS: dict[str, Callable[[Mapping[str, np.ndarray]], Translation]] = {
    "torchvision": torchvision.translate,
    "detectron2": detectron2.translate,
}


class ImportReport(NamedTuple):
    """What was imported from a file.

    Attributes:
        network: description.
        class_names: empty for a backbone only.
        used: number of tensors that became variables.
        settings: tensors that set options: the option by name.
        left_out: tensors and other entries that are not used: the reason by name.
    """

    network: str
    class_names: tuple[str, ...]
    used: int
    settings: dict[str, str]
    left_out: dict[str, str]


def import_weights(file: Path, framework: str, folder: Path) -> ImportReport:
    """Read a checkpoint of ``framework`` (a key of ``FRAMEWORKS``) and write the model folder.

    A classification ResNet gives a folder without labels, for training only (``train weights=FOLDER``).

    Raises:
        UserError: the file cannot be read, or its architecture is not supported.
    """
    checkpoint = read_checkpoint(file)
    try:
        translation = _translate(checkpoint.tensors, framework)
        config = _build_config(translation)
        model = build_model(max(len(translation.class_names), 1), config)
        prefix = BACKBONE if translation.backbone_only else ""
        variables = {variable.path: variable for variable in model.variables if variable.path.startswith(prefix)}
        converted = convert(
            checkpoint.tensors, translation, {path: tuple(variable.shape) for path, variable in variables.items()}
        )
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if translation.backbone_only:
        write_backbone_folder(folder, converted, config)
    else:
        for path, values in converted.items():
            variables[path].assign(values)
        write_model_folder(
            folder, model, config, translation.class_names, translation.category_ids, {"imported_from": file.name}
        )
    kept = {name: f"not a tensor: {value}" for name, value in checkpoint.others.items()}
    return ImportReport(
        network_name(translation),
        translation.class_names,
        len(translation.targets),
        translation.settings,
        translation.left_out | kept,
    )


def _translate(tensors: Mapping[str, np.ndarray], framework: str) -> Translation:
    """The translation; if there is none, the error names the framework that the file seems to belong to."""
    try:
        return FRAMEWORKS[framework](tensors)
    except UserError as error:
        if any(name.startswith(BACKBONE) for name in tensors):
            raise UserError("it contains weights of frcnn, which need no import; train with weights=FILE") from None
        (other,) = FRAMEWORKS.keys() - {framework}
        try:
            FRAMEWORKS[other](tensors)
        except UserError:
            raise error from None
        raise UserError(f"it is a checkpoint of {other}, not of {framework}; import it with --from {other}") from None


def _build_config(translation: Translation) -> Config:
    return Config.from_tree(translation.options, "options of the checkpoint")
