"""The state of a run that a checkpoint stores beside the variables, and its progress."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.errors import UserError
from frcnn.training.best_model import Best
from frcnn.training.manifest import hash_file
from frcnn.weights.model_files import CONFIG, HASHES, LABELS, METRICS, THRESHOLDS, WEIGHTS
from frcnn.weights.model_folder import copy_model_folder
from frcnn.weights.model_hashes import verify_hashes, write_hashes

MODEL_FILES = (WEIGHTS, CONFIG, LABELS, METRICS)
# Entries of the state and their types; those not in _REQUIRED are missing in checkpoints of earlier versions.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "best_AP": (float, int, type(None)),
    "data": (str,),
    "config": (dict,),
    "evaluation_pending": (bool,),
    "steps_per_epoch": (int,),
    "validation_data": (str, type(None)),
    "class_names": (list,),
    "model_sha256": (dict,),
    "best": (dict,),
    "seconds": (float, int),
    "ended_at_minutes": (float, int, type(None)),
}
_REQUIRED = ("best_AP", "data", "config")


class ResumeState(NamedTuple):
    """The progress of the run so far; the defaults are those of a run that starts.

    Attributes:
        step: steps taken.
        saved_step: step of the checkpoint that holds exactly these variables, if there is one.
        best: the best evaluation so far.
        evaluation_pending: the variables of this step are still to be evaluated.
        model_sha256: hashes of the files in the model folder; empty if there is no model yet.
        seconds: that the run has taken so far.
        out_of_time: ``training.max_minutes`` ended the run.
    """

    step: int = 0
    saved_step: int | None = None
    best: Best = Best()
    evaluation_pending: bool = False
    model_sha256: Mapping[str, str] = {}
    seconds: float = 0.0
    out_of_time: bool = False


def check_state(state: Mapping[str, Any]) -> None:
    """Raise ValueError if the state of a checkpoint lacks an entry or has one of a wrong type."""
    for name, types in _TYPES.items():
        if name not in state:
            if name not in _REQUIRED:
                continue
            raise ValueError(f"{name} is missing in its state")
        value = state[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"{name} of its state is {type(value).__name__}, expected {types[0].__name__}")
    best_ap = state["best_AP"]
    if best_ap is not None and not (math.isfinite(best_ap) and 0 <= best_ap <= 1):
        raise ValueError("best_AP of its state is not between 0 and 1")
    Best.from_state(state)
    if state.get("steps_per_epoch", 1) < 1:
        raise ValueError("steps_per_epoch of its state is less than 1")


def hash_model(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model folder, by name."""
    return {name: hash_file(folder / name) for name in MODEL_FILES}


def model_problem(folder: Path, expected: Mapping[str, str]) -> str | None:
    """What is wrong with a model folder, or None.

    Args:
        expected: hashes of its files; empty if they are not known (checkpoints of earlier versions).
    """
    for name in MODEL_FILES:
        file = folder / name
        try:
            if not file.is_file() or file.stat().st_size == 0:
                return f"{name} is {'empty' if file.is_file() else 'missing'}"
            if expected and hash_file(file) != expected.get(name):
                return f"{name} is not the file that the run wrote"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def restore_model(folder: Path, copies: Sequence[Path], expected: Mapping[str, str]) -> Path | None:
    """Replace a damaged model folder by an intact copy; returns the copy, or None if none is intact.

    Args:
        expected: hashes of its files, as for :func:`model_problem`.
    """
    for copy in copies:
        with contextlib.suppress(UserError):
            if expected and model_problem(copy, expected) is None:
                copy_model_folder(copy, folder)
                return copy
    return None


def repair_other_files(folder: Path, copies: Sequence[Path], expected: Mapping[str, str]) -> str | None:
    """Repair the files of a model folder that a checkpoint has no hashes of; returns what was done, or None.

    ``thresholds.json`` is not in the checkpoint because ``frcnn thresholds`` changes it.
    """
    if repair_hashes(folder):
        return f"{folder / HASHES} was damaged and is written again"
    try:
        verify_hashes(folder, (THRESHOLDS,))
    except UserError:
        copy = restore_model(folder, copies, expected)
        remedy = f"it is restored from {copy}" if copy else "write it again with 'frcnn thresholds'"
        return f"{folder / THRESHOLDS} is missing or damaged; {remedy}"
    return None


def repair_hashes(folder: Path) -> bool:
    """Write ``SHA256SUMS`` of an intact model folder again if it contradicts the files; returns whether it did.

    A file that contradicts them would make the model unusable for everyone who loads it.
    """
    try:
        verify_hashes(folder, MODEL_FILES)
    except UserError:
        with_thresholds = (THRESHOLDS,) if (folder / THRESHOLDS).is_file() else ()
        write_hashes(folder, (*MODEL_FILES, *with_thresholds))
        return True
    return False
