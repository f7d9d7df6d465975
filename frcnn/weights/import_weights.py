"""Another framework's checkpoint to a model folder of ours, with an account of every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydantic

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights import detectron2, torchvision
from frcnn.weights.checkpoint_file import read_checkpoint
from frcnn.weights.conversion import Translation, convert
from frcnn.weights.model_folder import BACKBONE, write_backbone_folder, write_model_folder

FRAMEWORKS: dict[str, Callable[[Mapping[str, np.ndarray]], Translation]] = {
    "torchvision": torchvision.translate,
    "detectron2": detectron2.translate,
}


class ImportReport(NamedTuple):
    """What became of a file.

    Attributes:
        network: in words.
        class_names: empty for a backbone alone.
        used: how many tensors of the file the model has.
        settings: tensors that became options, by name: the option.
        left_out: tensors and other content that the model has no use for, by name: the reason.
    """

    network: str
    class_names: tuple[str, ...]
    used: int
    settings: dict[str, str]
    left_out: dict[str, str]


def import_weights(file: Path, framework: str, folder: Path) -> ImportReport:
    """Read a checkpoint of ``framework`` (a key of ``FRAMEWORKS``) and write the model folder.

    A detector gives a whole model folder; a ResNet alone gives one without labels, which ``train weights=FOLDER`` starts from.

    Raises:
        UserError: the file cannot be read, is of an unknown architecture, or does not fit it; names the tensors.
    """
    checkpoint = read_checkpoint(file)
    try:
        translation = _translated(checkpoint.tensors, framework)
        config = _config_of(translation)
        model = build_model(max(len(translation.class_names), 1), config)
        filled = BACKBONE if translation.backbone_only else ""
        variables = {variable.path: variable for variable in model.variables if variable.path.startswith(filled)}
        converted = convert(
            checkpoint.tensors, translation, {path: tuple(variable.shape) for path, variable in variables.items()}
        )
    except UserError as mistake:
        raise UserError(f"{file}: {mistake}") from None
    if translation.backbone_only:
        write_backbone_folder(folder, converted, config)
    else:
        for path, values in converted.items():
            variables[path].assign(values)
        write_model_folder(
            folder, model, config, translation.class_names, translation.category_ids, {"imported_from": file.name}
        )
    kept = {name: f"not a tensor: {value}" for name, value in checkpoint.others.items()}
    network = config.backbone.name + ("" if translation.backbone_only else " Faster R-CNN")
    return ImportReport(
        network, translation.class_names, len(translation.targets), translation.settings, translation.left_out | kept
    )


def _translated(tensors: Mapping[str, np.ndarray], framework: str) -> Translation:
    """The translation; where there is none, the error says whose file it seems to be."""
    try:
        return FRAMEWORKS[framework](tensors)
    except UserError as mistake:
        if any(name.startswith(BACKBONE) for name in tensors):
            raise UserError("it holds frcnn's own weights, which need no import; train with weights=FILE") from None
        (other,) = FRAMEWORKS.keys() - {framework}
        try:
            FRAMEWORKS[other](tensors)
        except UserError:
            raise mistake from None
        raise UserError(f"it is no file of {framework}'s but one of {other}'s; import it with --from {other}") from None


def _config_of(translation: Translation) -> Config:
    try:
        return Config.model_validate(translation.options)
    except pydantic.ValidationError as invalid:
        wrong = invalid.errors()[0]
        raise UserError(f"it asks for {'.'.join(map(str, wrong['loc']))} {wrong['input']!r}: {wrong['msg']}") from None
