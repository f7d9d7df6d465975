"""The report on the best model of a run, written when the run ends.

The best evaluation may be long past by then, and of a process that was interrupted since. Its detections are therefore
kept beside the checkpoints.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frcnn.atomic import atomic_file
from frcnn.config import Config
from frcnn.data.coco import Index
from frcnn.inference import Detections
from frcnn.report.page import ReportInput, write_report
from frcnn.weights.model_files import METRICS
from frcnn.weights.score_thresholds import read_thresholds

DETECTIONS_FILE = "best_detections.npz"


def keep_detections(file: Path, index: Index, results: Mapping[int, Detections], model: str, unreadable: int) -> None:
    """Write the detections of an evaluation.

    Args:
        model: SHA-256 of the weights that they are of.
        unreadable: number of images that counted as blank.

    Raises:
        OSError: the file cannot be written.
    """
    found = [results[record.image_id] for record in index.images]
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            model=np.array(model),
            data=np.array(index.fingerprint),
            unreadable=np.array(unreadable),
            counts=np.array([len(detections) for detections in found], np.int64),
            boxes=np.concatenate([detections.boxes for detections in found]),
            scores=np.concatenate([detections.scores for detections in found]),
            labels=np.concatenate([detections.labels for detections in found]),
        )


def kept_detections(file: Path, index: Index, model: str) -> tuple[dict[int, Detections], int] | None:
    """The detections that :func:`keep_detections` wrote, and the number of unreadable images.

    None if there are none of this model and data.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["model"]) != model or str(stored["data"]) != index.fingerprint:
                return None
            ends = np.cumsum(stored["counts"])[:-1]
            columns = [np.split(stored[name], ends) for name in ("boxes", "scores", "labels")]
            unreadable = int(stored["unreadable"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    parts = zip(index.images, *columns, strict=True)
    found = {
        record.image_id: Detections(boxes, scores, labels, index.class_names) for record, boxes, scores, labels in parts
    }
    return found, unreadable


def write_final_report(
    folder: Path,
    model: Path,
    kept: tuple[dict[int, Detections], int],
    index: Index,
    config: Config,
    records: Sequence[Mapping[str, Any]],
    progress: Callable[[], None],
) -> Path:
    """Write the report on a run's model; returns the page.

    Args:
        kept: of :func:`kept_detections`.
        records: of the run's ``metrics.jsonl``.

    Raises:
        OSError: the folder cannot be written.
    """
    results, unreadable = kept
    given = ReportInput(
        model=str(model),
        split="validation",
        config=config,
        index=index,
        results=results,
        thresholds=read_thresholds(model, index.class_names),
        model_metrics=json.loads((model / METRICS).read_text()),
        records=records,
        unreadable=unreadable,
    )
    return write_report(folder, given, progress)
