"""Every option of a run: the typed tree, and how files and texts become one."""

from frcnn.config.loading import changed_options, config_from_texts, load_config, option_names, save_config
from frcnn.config.schema import (
    FPN,
    RPN,
    Anchors,
    Augment,
    Backbone,
    Config,
    Data,
    Image,
    Norm,
    Ops,
    Optimizer,
    RoIHead,
    Section,
    Split,
    Training,
)

__all__ = [
    "FPN",
    "RPN",
    "Anchors",
    "Augment",
    "Backbone",
    "Split",
    "Config",
    "Data",
    "Image",
    "Norm",
    "Ops",
    "Optimizer",
    "RoIHead",
    "Section",
    "Training",
    "changed_options",
    "config_from_texts",
    "load_config",
    "option_names",
    "save_config",
]
