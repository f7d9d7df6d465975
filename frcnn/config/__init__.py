"""All options of a run: the typed tree, and how files and texts become one."""

from frcnn.config.data_options import Augment, Data, Image, Split
from frcnn.config.loading import (
    UniqueKeyLoader,
    changed_options,
    load_config,
    parse_yaml,
    read_yaml,
    save_config,
    with_test_options,
)
from frcnn.config.model_options import FPN, RPN, Anchors, Backbone, Inference, Norm, Ops, RoIHead
from frcnn.config.options import Options, option_names
from frcnn.config.schema import Config
from frcnn.config.training_options import Distributed, Optimizer, Tracking, Training

__all__ = [
    "FPN",
    "RPN",
    "Anchors",
    "Augment",
    "Backbone",
    "Config",
    "Data",
    "Distributed",
    "Image",
    "Inference",
    "Norm",
    "Ops",
    "Optimizer",
    "Options",
    "RoIHead",
    "Split",
    "Tracking",
    "Training",
    "UniqueKeyLoader",
    "changed_options",
    "load_config",
    "option_names",
    "parse_yaml",
    "read_yaml",
    "save_config",
    "with_test_options",
]
