"""Training from given weights: what they fill, what is drawn, and which options they were not made for."""

from __future__ import annotations

import json
from collections.abc import Sequence

import keras

from frcnn.config import Config, load_config
from frcnn.data.annotations import few
from frcnn.errors import UserError
from frcnn.weights.model_folder import (
    BACKBONE,
    CONFIG,
    LABELS,
    PREDICTORS,
    WEIGHTS,
    ModelFolder,
    load_weights,
    read_model_folder,
)

# Options that leave every tensor's shape alone and change what the network computes from it. Norms are not among them: the
# same tensors as frozen or moving statistics are a choice of the recipe.
OF_FEATURES = (
    "image.channel_order",
    "image.mean",
    "image.std",
    "image.resize",
    "backbone.stride_in_1x1",
    "backbone.norm_eps",
)
OF_BOXES = (
    "anchors.sizes", "anchors.aspect_ratios", "anchors.rounded", "anchors.stride", "roi_head.sampling_ratio", "roi_head.aligned",
    "roi_head.level_rule", "roi_head.box_weights",
)  # fmt: skip


def start_from(model: keras.Model, config: Config, class_names: Sequence[str]) -> list[str]:
    """Fill the model from ``config.weights``, a model folder or its weights file; other classes and backbones alone are fine.

    Args:
        class_names: of the labels 1..K of this run. Where the folder's are others, the model keeps its own predictors.

    Returns:
        Notes for the run's log: what was taken and what is drawn at random, and, where the weights' own configuration
        is beside them, the options that the run has otherwise.

    Raises:
        UserError: the weights cannot be read or belong to another architecture, or a file beside them is damaged.
    """
    assert config.weights is not None
    file = config.weights / WEIGHTS if config.weights.is_dir() else config.weights
    labelled = file.name == WEIGHTS and all((file.parent / name).is_file() for name in (WEIGHTS, LABELS, CONFIG))
    saved = read_model_folder(file.parent) if labelled else None
    other_classes = saved is not None and saved.class_names != tuple(class_names)
    drawn = load_weights(model, file, new_classes=True, own_predictors=other_classes)
    notes = [f"started from {config.weights}: {_taken(drawn, saved)}"]
    if (file.parent / CONFIG).is_file():
        made_with = saved.config if saved else load_config(file.parent / CONFIG)
        differing = differing_conventions(
            made_with, config, OF_FEATURES if _backbone_alone(drawn) else (*OF_FEATURES, *OF_BOXES)
        )
        if differing:
            notes.append(
                f"{config.weights} was made with other conventions than this run's, and computes something else with these: "
                f"{'; '.join(differing)}. Unless that is meant, set them as {file.parent / CONFIG} has them"
            )
    return notes


def at_random(config: Config) -> list[str]:
    """Notes of a run that starts from random weights.

    Raises:
        UserError: layers that never train would keep them.
    """
    if config.backbone.freeze:
        raise UserError(
            f"backbone.freeze is {config.backbone.freeze}, and there are no weights: the frozen layers would stay random. Give weights=… "
            "(docs/weights.md), or set backbone.freeze=0 and backbone.norm=gn"
        )
    if config.backbone.norm == "frozen_bn":
        return [
            "backbone.norm is frozen_bn, and there are no weights: nothing normalises; from random weights gn trains better"
        ]
    return []


def _backbone_alone(drawn: list[str]) -> bool:
    """``load_weights`` names tensors of the predictors, or whole layers beside the backbone."""
    return bool(drawn) and not drawn[0].startswith(PREDICTORS)


def _taken(drawn: list[str], saved: ModelFolder | None) -> str:
    if not drawn:
        return "everything taken"
    if _backbone_alone(drawn):
        return f"{BACKBONE.rstrip('/')} taken, which is all it holds; {', '.join(drawn)} drawn at random"
    whose = f" ({few(list(saved.class_names))})" if saved else ""
    layers = ", ".join(name.rstrip("/") for name in PREDICTORS)
    return f"everything taken but the predictors of its classes{whose}; {layers} drawn at random for this run's classes"


def differing_conventions(
    theirs: Config, ours: Config, options: Sequence[str] = (*OF_FEATURES, *OF_BOXES)
) -> list[str]:
    """Those of ``options`` that the two have otherwise, with both values, as ``"section.option was 3, is 4"``."""
    before, now = (config.model_dump(mode="json") for config in (theirs, ours))
    pairs = {
        name: (before[section][option], now[section][option])
        for name in options
        for section, option in [name.split(".")]
    }
    return [f"{name} was {json.dumps(old)}, is {json.dumps(new)}" for name, (old, new) in pairs.items() if old != new]
