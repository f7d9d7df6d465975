"""Check that a run's checkpoints and models fit on the disk, before the training starts."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from frcnn.errors import UserError
from frcnn.training.folders import Folders


def check_disk_space(folders: Folders, model: Sequence[Any], optimizer: Sequence[Any], keep: int) -> None:
    """Raise UserError if a file system has too little space for what the run will write to it.

    While a checkpoint is written, the ``keep`` previous ones still exist; while a model is written, so does the
    previous one. Existing files count, because they are replaced.

    Args:
        model: variables of the model.
        optimizer: variables of the optimizer.
        keep: number of checkpoints to keep.
    """
    weights, state = bytes_of(model), bytes_of(optimizer)
    needed: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    wanted = [
        (folders.checkpoints, (keep + 1) * (weights + state)),
        *((folder, 2 * weights) for folder in folders.models),
    ]
    for folder, size in wanted:
        place = _existing(folder)
        device = os.stat(place).st_dev
        places.setdefault(device, place)
        inside = sum(_size_of(model) for model in folders.models if folder in model.parents)  # counted on its own
        needed[device] += max(0, size - (_size_of(folder) - inside))
    for device, size in needed.items():
        free = shutil.disk_usage(places[device]).free
        if free < size:
            raise UserError(
                f"too little space in {places[device]}: checkpoints and model need {size:,} more bytes, {free:,} are "
                "free; free some space, lower training.keep_checkpoints, or set option 'output' to another folder"
            )


def bytes_of(variables: Sequence[Any]) -> int:
    """Size of the values of Keras or TensorFlow variables."""
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in variables)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _size_of(folder: Path) -> int:
    """Bytes of the files in a folder; 0 if it does not exist."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:  # removed in this moment, or unreadable
            continue
    return total
