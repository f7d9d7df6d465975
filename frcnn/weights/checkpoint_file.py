"""Another framework's file to its tensors by name, whatever the container."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from frcnn.errors import UserError
from frcnn.weights.pickled import read_pickled

PICKLED = (".pth", ".pt", ".pkl")
CONTAINERS = (*PICKLED, ".safetensors")
# Where checkpoints keep the weights when these are not the whole file: torchvision's references, Detectron2, Detectron.
WEIGHTS_KEYS = ("model", "state_dict", "blobs")
LARGEST_SHOWN = 60  # characters of a value that is not a tensor


class CheckpointFile(NamedTuple):
    """Attributes:
    tensors: by the framework's own names.
    others: what else the file holds, by name, in words.
    """

    tensors: dict[str, np.ndarray]
    others: dict[str, str]


def read_checkpoint(file: Path) -> CheckpointFile:
    """Tensors of a ``.pth``, ``.pt``, ``.pkl`` or ``.safetensors`` file; nothing in it is executed.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds no tensors.
    """
    if not file.is_file():
        raise UserError(
            f"{file} is not a file; give a checkpoint ({', '.join(CONTAINERS)}), see docs/weights.md for where to get one"
        )
    if file.suffix not in CONTAINERS:
        raise UserError(f"{file} ends with {file.suffix!r}; expected one of {', '.join(CONTAINERS)}")
    if file.suffix == ".safetensors":
        try:
            return CheckpointFile(safetensors.numpy.load_file(file), {})
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file} cannot be read ({error}); expected a .safetensors file") from error
    tree = read_pickled(file)
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds a {type(tree).__name__}; expected tensors by name (a state_dict)")
    others: dict[str, str] = {}
    inner = next((key for key in WEIGHTS_KEYS if isinstance(tree.get(key), dict)), None)
    if inner:
        others = {str(key): _described(value) for key, value in tree.items() if key != inner}
        tree = tree[inner]
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, np.ndarray)}
    others |= {str(name): _described(value) for name, value in tree.items() if not isinstance(value, np.ndarray)}
    if not tensors:
        raise UserError(f"{file} holds no tensors by name; expected a state_dict")
    return CheckpointFile(tensors, others)


def _described(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"{len(value)} entries"
    if isinstance(value, (str, int, float)) and len(repr(value)) <= LARGEST_SHOWN:
        return repr(value)
    return "an array" if isinstance(value, np.ndarray) else "an object"
