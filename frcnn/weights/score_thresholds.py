"""Score thresholds of a model, in the file ``thresholds.json`` of its folder: what predict, serve and drawings use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frcnn.atomic import write_atomically
from frcnn.errors import UserError
from frcnn.weights.model_files import HASHES, THRESHOLDS
from frcnn.weights.model_hashes import file_hash, verify_hashes


@dataclass(frozen=True)
class ScoreThresholds:
    """The minimum score of each class.

    Attributes:
        by_class: minimum score by class name, in the order of the labels 1..K.
        goal: what they were chosen for, in words.
        tiling: side and overlap of the tiles that they were chosen with; None: whole images.
        test: options of the group ``test`` that they were chosen with, where these differed from the model's.
    """

    by_class: Mapping[str, float]
    goal: str
    tiling: tuple[int, float] | None = None
    test: str | None = None

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Minimum scores ``[D]`` float32 of detections with these labels ``[D]``."""
        return np.array([0.0, *self.by_class.values()], np.float32)[labels]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in self.by_class.items())
        return f"{values} ({THRESHOLDS}: {self.goal})"


def read_thresholds(folder: Path, class_names: Sequence[str]) -> ScoreThresholds | None:
    """The thresholds of a model folder; None if it has none. A class without its own has the overall one.

    Raises:
        UserError: the file is damaged, of other classes, or missing although the folder's hashes list it.
    """
    file = folder / THRESHOLDS
    verify_hashes(folder, (THRESHOLDS,))
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text())
        overall, classes = document["overall"]["threshold"], document["classes"]
        by_class = {name: float((classes[name] or {}).get("threshold", overall)) for name in class_names}
        if not all(0 <= value <= 1 for value in by_class.values()):
            raise ValueError("a threshold is not between 0 and 1")
        # Absent from files of older versions, which had neither.
        tiling, test = document.get("tiling"), document.get("test")
        tiles = (int(tiling["tile"]), float(tiling["overlap"])) if tiling else None
        return ScoreThresholds(by_class, str(document["goal"]), tiles, str(test) if test else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{file} is damaged ({reason}); run frcnn thresholds again, or delete the file and its line in {HASHES}"
        ) from error


def store_thresholds(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``thresholds.json`` into an existing model folder, and its hash into ``SHA256SUMS`` if there is one.

    Raises:
        OSError: the folder cannot be written.
    """
    hashes = folder / HASHES
    lines = hashes.read_text().splitlines() if hashes.is_file() else None
    others = [line for line in lines or () if not line.endswith(f"  {THRESHOLDS}")]
    if lines is not None and others != lines:
        # Without the old hash first: whenever this is interrupted, the folder is valid.
        write_atomically(hashes, "".join(f"{line}\n" for line in others))
    write_atomically(folder / THRESHOLDS, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if lines is not None:
        line = f"{file_hash(folder / THRESHOLDS)}  {THRESHOLDS}"
        write_atomically(hashes, "".join(f"{entry}\n" for entry in (*others, line)))
