"""Initial weights of training: load given ones, and report what is random and which conventions differ."""

from __future__ import annotations

import json
from collections.abc import Sequence

import keras

from frcnn.config import Config, load_config
from frcnn.data.problems import first_few
from frcnn.errors import UserError
from frcnn.weights.model_files import CONFIG, LABELS, WEIGHTS
from frcnn.weights.model_folder import PREDICTOR, ModelFolder, load_weights, read_model_folder
from frcnn.weights.published import resolve_weights

# Options that change what the network computes but not the shapes of its tensors, so that no error would show. Norms
# are not among them: whether the same statistics are frozen is a choice of the recipe.
BACKBONE_CONVENTIONS = (
    "image.channel_order",
    "image.mean",
    "image.std",
    "image.resize",
    "backbone.stride_in_1x1",
    "backbone.norm_eps",
)
DETECTOR_CONVENTIONS = (
    "anchors.sizes", "anchors.aspect_ratios", "anchors.rounded", "anchors.stride",
    "roi_head.sampling_ratio", "roi_head.aligned", "roi_head.level_rule", "roi_head.box_weights",
)  # fmt: skip


def start_from(model: keras.Model, config: Config, class_names: Sequence[str]) -> list[str]:
    """Initialize the model from ``config.weights``: a model folder, a weights file of ours, or fetched weights' name.

    The weights may be those of other classes or of a backbone only.

    Args:
        class_names: of the labels 1..K of this run. If the folder's differ, the predictors stay random.

    Returns:
        Messages for the log: what was loaded and what is random, and, if the configuration of the weights is next to
        them, which conventions differ.

    Raises:
        UserError: the weights cannot be read or belong to another architecture, or a file next to them is damaged.
    """
    assert config.weights is not None
    source = resolve_weights(config.weights)
    file = source / WEIGHTS if source.is_dir() else source
    labelled = file.name == WEIGHTS and all((file.parent / name).is_file() for name in (WEIGHTS, LABELS, CONFIG))
    saved = read_model_folder(file.parent) if labelled else None
    other_classes = saved is not None and saved.class_names != tuple(class_names)
    kept = load_weights(model, file, new_classes=True, own_predictors=other_classes)
    messages = [f"started from {config.weights}: {_loaded(kept, saved)}"]
    if (file.parent / CONFIG).is_file():
        theirs = saved.config if saved else load_config(file.parent / CONFIG)
        differing = differing_conventions(
            theirs,
            config,
            BACKBONE_CONVENTIONS if _backbone_only(kept) else (*BACKBONE_CONVENTIONS, *DETECTOR_CONVENTIONS),
        )
        if differing:
            messages.append(
                f"{config.weights} was trained with other conventions, and gives other results with those of this run: "
                f"{'; '.join(differing)}. Unless this is intended, set them as in {file.parent / CONFIG}"
            )
    return messages


def check_random_initialization(config: Config) -> list[str]:
    """Messages for the log of a run that starts from random weights.

    Raises:
        UserError: frozen layers would stay random.
    """
    if config.backbone.freeze:
        raise UserError(
            f"backbone.freeze is {config.backbone.freeze} without weights: the frozen layers would stay random. "
            "Give weights=… (docs/weights.md), or set backbone.freeze=0 and backbone.norm=gn"
        )
    if config.backbone.norm == "frozen_bn":
        return [
            "backbone.norm is frozen_bn without weights: nothing is normalized; from random weights gn trains better"
        ]
    return []


def _backbone_only(kept: list[str]) -> bool:
    """``load_weights`` returns tensors of the predictors, or, for a backbone only, whole layers."""
    return bool(kept) and not PREDICTOR.match(kept[0])


def _loaded(kept: list[str], saved: ModelFolder | None) -> str:
    if not kept:
        return "all tensors loaded"
    if _backbone_only(kept):
        return f"only the backbone, which is all it contains; {', '.join(kept)} initialized randomly"
    classes = f" ({first_few(list(saved.class_names))})" if saved else ""
    layers = ", ".join(dict.fromkeys(name.rpartition("/")[0] for name in kept))
    return (
        f"all tensors but the predictors of its classes{classes}; {layers} initialized randomly for this run's classes"
    )


def differing_conventions(
    theirs: Config, ours: Config, options: Sequence[str] = (*BACKBONE_CONVENTIONS, *DETECTOR_CONVENTIONS)
) -> list[str]:
    """Those of ``options`` that differ, with both values, as ``"section.option was 3, is 4"``."""
    before, now = (config.model_dump(mode="json") for config in (theirs, ours))
    pairs = {
        name: (before[section][option], now[section][option])
        for name in options
        for section, option in [name.split(".")]
    }
    return [f"{name} was {json.dumps(old)}, is {json.dumps(new)}" for name, (old, new) in pairs.items() if old != new]
