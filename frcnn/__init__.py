"""Train, evaluate and serve Faster R-CNN on COCO-format datasets.

``import frcnn`` is cheap: TensorFlow is imported by the first call. docs/python_api.md has examples.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frcnn.config import Config
    from frcnn.evaluation.coco import Metrics
    from frcnn.inference import Detector

__version__ = "0.1.0"

__all__ = ["evaluate", "load", "train"]


def load(model: str | PathLike[str], test: str | None = None) -> Detector:
    """Load a model folder for inference.

    Args:
        model: folder that training or ``frcnn import-weights`` wrote.
        test: test-time augmentation and Soft-NMS, such as ``"flip=true soft_nms=gaussian"``.

    Raises:
        frcnn.errors.UserError: a file of the folder is missing, damaged or does not match the others, or an option is
            invalid.
    """
    from frcnn.startup import import_tensorflow

    import_tensorflow()
    from frcnn.inference import Detector

    return Detector.load(Path(model), test)


def train(config: str | PathLike[str] | Config | None = None, **overrides: Any) -> Path:
    """Train in this process, evaluate, and return the model folder; resumes if the output folder has checkpoints.

    Args:
        config: recipe file, configuration, or None for the defaults.
        overrides: options by their dotted names with ``__`` for the dot: ``training__epochs=3``.

    Raises:
        frcnn.errors.UserError: the configuration, the data or a checkpoint is invalid, or the loss became non-finite.
    """
    from frcnn.config import Config, read_yaml
    from frcnn.config.options import insert_value

    if isinstance(config, Config):
        tree = config.model_dump(exclude_unset=True)
    else:
        tree = read_yaml(Path(config)) if config else {}
    for name, value in overrides.items():
        insert_value(Config, tree, name.replace("__", "."), value)
    from frcnn.startup import import_tensorflow

    import_tensorflow()
    from frcnn.training.trainer import Trainer

    return Trainer(Config.from_tree(tree, str(config) if isinstance(config, str | PathLike) else "frcnn.train")).run()


def evaluate(model: str | PathLike[str], data: str | PathLike[str] | None = None, split: str = "validation") -> Metrics:
    """Evaluate a model folder with the COCO metrics.

    Args:
        model: folder that training wrote.
        data: dataset folder; None for the one that the model was trained on.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        frcnn.errors.UserError: the model or the split cannot be read, or too many of its images.
    """
    from frcnn.startup import import_tensorflow

    import_tensorflow()
    from frcnn.config import Data
    from frcnn.data.coco import find_split, load_index
    from frcnn.distributed import World
    from frcnn.evaluation.evaluate import evaluate_model
    from frcnn.weights.model_folder import read_model_folder

    saved = read_model_folder(Path(model))
    source = Data(root=Path(data)) if data else saved.config.data
    metrics = evaluate_model(
        saved, lambda: load_index(*find_split(source, split), box_format=source.box_format), World()
    ).metrics
    assert metrics is not None  # a world of one process has rank 0 only
    return metrics
