"""Picture files in, drawn pictures and one COCO-results file out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from frcnn.errors import UserError

if TYPE_CHECKING:  # the search for pictures does not wait for TensorFlow
    from frcnn.inference import Detector

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
RESULTS_FILE = "detections.json"


class PredictionTask(NamedTuple):
    """One picture and where its drawn copy goes."""

    source: Path
    target: Path


def find_images(paths: Sequence[Path], out: Path) -> list[PredictionTask]:
    """Files as they are named and the pictures below folders, in order; folders keep their structure below ``out``.

    Pictures below ``out`` itself are left out, so that a second call does not take the first one's for new.

    Raises:
        UserError: a folder without pictures, or a drawn picture would replace a source.
    """
    jobs: list[PredictionTask] = []
    taken: set[Path] = set()
    for path in paths:
        for source in _pictures_below(path, out) if path.is_dir() else [path]:
            inside = source.relative_to(path) if path.is_dir() else Path(source.name)
            target = _free(
                out / inside.with_suffix(".jpg" if source.suffix.lower() in (".jpg", ".jpeg") else ".png"), taken
            )
            taken.add(target)
            jobs.append(PredictionTask(source, target))
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(
                f"the drawn copy of {job.source} would replace {job.target}; choose another folder than {out} for --out"
            )
    return jobs


def predict_images(
    detector: Detector,
    jobs: Sequence[PredictionTask],
    out: Path,
    score_threshold: float,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> int:
    """Detect, draw and write; returns how many pictures could not be read.

    Args:
        out: gets ``detections.json``: every detection in the COCO results format with its picture's ``file_name``; pictures
            are numbered from 1 as ``image_id``.
        score_threshold: detections of at least this score are drawn.
        report: is told why a picture could not be read.
        progress: is told (pictures done, all pictures).
    """
    from frcnn.data.decode import UnreadableImage, decode_image
    from frcnn.evaluation.coco import coco_results
    from frcnn.evaluation.visualize import draw_detections

    entries: list[dict[str, Any]] = []
    unreadable = 0
    for number, (source, target) in enumerate(jobs, start=1):
        try:
            image = decode_image(source)
        except UnreadableImage as reason:
            report(str(reason))
            unreadable += 1
        else:
            (detections,) = detector.detect([image])
            entries += [
                {**entry, "file_name": str(source)} for entry in coco_results(number, detections, detector.category_ids)
            ]
            target.parent.mkdir(parents=True, exist_ok=True)
            draw_detections(image, detections, detector.class_names, score_threshold).save(target, quality=92)
        progress(number, len(jobs))
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS_FILE).write_text(json.dumps(entries) + "\n")
    return unreadable


def _pictures_below(folder: Path, out: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if out.resolve() != folder.resolve():
        found = [path for path in found if not path.resolve().is_relative_to(out.resolve())]
    if not found:
        raise UserError(f"{folder} has no pictures; expected files that end in {', '.join(SUFFIXES)}")
    return found


def _free(target: Path, taken: set[Path]) -> Path:
    """The target, numbered where a picture of the same name came before."""
    number, free = 1, target
    while free in taken:
        number += 1
        free = target.with_stem(f"{target.stem}_{number}")
    return free
