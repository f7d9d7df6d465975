"""Read the tensors of another framework's checkpoint by name, from any of its file formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from frcnn.errors import UserError
from frcnn.weights.pickled import read_pickled

PICKLED = (".pth", ".pt", ".pkl")
FORMATS = (*PICKLED, ".safetensors")
# Key of the weights in training checkpoints: torchvision's reference scripts and Detectron2, PyTorch, Detectron.
WEIGHTS_KEYS = ("model", "state_dict", "blobs")
MAX_VALUE_LENGTH = 60  # characters; longer values that are not tensors are not printed


class CheckpointFile(NamedTuple):
    """Content of a checkpoint.

    Attributes:
        tensors: by the framework's names.
        others: descriptions of the other entries, by name.
    """

    tensors: dict[str, np.ndarray]
    others: dict[str, str]


def read_checkpoint(file: Path) -> CheckpointFile:
    """Tensors of a ``.pth``, ``.pt``, ``.pkl`` or ``.safetensors`` file; no code in it is executed.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds no tensors.
    """
    if not file.is_file():
        raise UserError(
            f"{file} is not a file; give a checkpoint ({', '.join(FORMATS)}); docs/weights.md lists published ones"
        )
    if file.suffix not in FORMATS:
        raise UserError(f"{file} ends with {file.suffix!r}; expected one of {', '.join(FORMATS)}")
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
        others = {str(key): _describe(value) for key, value in tree.items() if key != inner}
        tree = tree[inner]
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, np.ndarray)}
    others |= {str(name): _describe(value) for name, value in tree.items() if not isinstance(value, np.ndarray)}
    if not tensors:
        raise UserError(f"{file} holds no tensors by name; expected a state_dict")
    return CheckpointFile(tensors, others)


def _describe(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"{len(value)} entries"
    if isinstance(value, (str, int, float)) and len(repr(value)) <= MAX_VALUE_LENGTH:
        return repr(value)
    return "an array" if isinstance(value, np.ndarray) else "an object"
