"""Prediction on image files: drawn copies and one file of COCO results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from frcnn.atomic import atomic_folder, write_atomically
from frcnn.data.formats.label_files import LabelClasses, LabeledImage, write_labels
from frcnn.data.image_files import IMAGE_SUFFIXES, list_images
from frcnn.errors import UserError

if TYPE_CHECKING:  # finding the images takes no import of TensorFlow
    import numpy as np

    from frcnn.inference import Detections, Detector
    from frcnn.tiling import TiledDetector
    from frcnn.weights.score_thresholds import ScoreThresholds

RESULTS_FILE = "detections.json"
LABELS_FOLDER = "labels"
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")


class PredictionTask(NamedTuple):
    """An image file, the path of its drawn copy, and its name in label files.

    Attributes:
        name: path below the folder that was given, or the file name.
    """

    source: Path
    target: Path
    name: str


class PredictedImage(NamedTuple):
    """A task, the size of its upright image in pixels, and what was found in it."""

    task: PredictionTask
    width: int
    height: int
    detections: Detections

    def labeled(self, above: float) -> LabeledImage:
        """The detections of at least this score, for label files."""
        found = self.detections
        kept = found.scores >= above
        return LabeledImage(
            self.task.name, self.width, self.height, found.boxes[kept], found.labels[kept], found.scores[kept]
        )


class PredictionSummary(NamedTuple):
    """What was found, and the number of images for which something failed.

    Attributes:
        unreadable: they have no detections.
        not_drawn: their detections are in the results file, but the drawn copy could not be written.
        images: the others, with all detections.
    """

    unreadable: int
    not_drawn: int
    images: list[PredictedImage]


def find_images(
    paths: Sequence[Path], out: Path, report: Callable[[str], None] = lambda _: None
) -> list[PredictionTask]:
    """Named files, and images in folders in alphabetical order; drawn copies keep the structure of the folders.

    Images below ``out`` are skipped, so that a second call does not process the results of the first.

    Args:
        report: called with a message for each folder with files that are not images.

    Raises:
        UserError: a folder has no images, or a drawn copy would replace a source.
    """
    tasks: list[PredictionTask] = []
    taken: set[Path] = set()
    for path in paths:
        for source in _images_in(path, out, report) if path.is_dir() else [path]:
            relative = source.relative_to(path) if path.is_dir() else Path(source.name)
            suffix = ".jpg" if source.suffix.lower() in JPEG_SUFFIXES else ".png"
            target = _unused(out / relative.with_suffix(suffix), taken)
            taken.add(target)
            tasks.append(PredictionTask(source, target, relative.as_posix()))
    sources = {task.source.resolve() for task in tasks}
    for task in tasks:
        if task.target.resolve() in sources:
            raise UserError(
                f"the drawn copy of {task.source} would replace the source image {task.target}; choose a --out other "
                f"than {out}"
            )
    return tasks


def predict_images(
    detector: Detector | TiledDetector,
    tasks: Sequence[PredictionTask],
    out: Path,
    score_threshold: float | ScoreThresholds,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> PredictionSummary:
    """Detect objects in each image and write its drawn copy; then write the results file.

    The results file is written with what there is also if an exception, such as KeyboardInterrupt, ends the loop. An
    image that cannot be read or drawn does not end it.

    Args:
        out: gets ``detections.json``: all detections in the COCO results format, with the image's ``file_name``; images
            are numbered from 1 as ``image_id``.
        score_threshold: detections of at least this score, or that of their class, are drawn; ``detections.json`` has
            all.
        report: called with a message for each image that cannot be read, or drawn.
        progress: called with (images done, number of images).

    Raises:
        OSError: the results file cannot be written.
    """
    from frcnn.data.decode import UnreadableImage, decode_image
    from frcnn.evaluation.coco import coco_results

    entries: list[dict[str, Any]] = []
    predicted: list[PredictedImage] = []
    unreadable = not_drawn = 0
    out.mkdir(parents=True, exist_ok=True)
    try:
        for number, task in enumerate(tasks, start=1):
            source, target, _ = task
            try:
                image = decode_image(source, detector.config.data.max_pixels)
            except UnreadableImage as error:
                report(str(error))
                unreadable += 1
            else:
                (detections,) = detector.detect([image])
                predicted.append(PredictedImage(task, image.shape[1], image.shape[0], detections))
                results = coco_results(number, detections, detector.category_ids)
                entries += [{**entry, "file_name": str(source)} for entry in results]
                if problem := _draw(image, detections, score_threshold, target):
                    report(f"the drawn copy of {source} could not be written to {target} ({problem})")
                    not_drawn += 1
            progress(number, len(tasks))
    finally:
        write_atomically(out / RESULTS_FILE, json.dumps(entries) + "\n")
    return PredictionSummary(unreadable, not_drawn, predicted)


def write_label_folder(
    detector: Detector,
    images: Sequence[PredictedImage],
    out: Path,
    label_format: str,
    above: float,
    images_uri: str | None,
) -> int:
    """Write the folder ``labels`` of ``out`` anew; returns the number of boxes in it.

    Args:
        above: minimum score of a detection that becomes a label.
        label_format, images_uri: as for :func:`frcnn.data.formats.label_files.write_labels`.

    Raises:
        OSError: it cannot be written; a previous one is unchanged.
    """
    labeled = [image.labeled(above) for image in images]
    with atomic_folder(out / LABELS_FOLDER) as folder:
        write_labels(
            label_format, labeled, LabelClasses(detector.class_names, detector.category_ids), folder, images_uri
        )
    return sum(len(image.boxes) for image in labeled)


def _draw(image: np.ndarray, detections: Detections, score_threshold: float | ScoreThresholds, target: Path) -> str:
    """Write the drawn copy; returns the reason if that is impossible."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        detections.draw(image, score_threshold).save(target, quality=92)
    except (OSError, ValueError, MemoryError) as error:  # Pillow raises OSError and ValueError for unencodable images
        with contextlib.suppress(OSError):
            target.unlink()  # half a file, when the disk is full
        return str(error) or type(error).__name__
    return ""


def _images_in(folder: Path, out: Path, report: Callable[[str], None]) -> list[Path]:
    images, ignored = list_images(folder)
    if ignored:
        report(f"{folder}: skipped {ignored} files that are hidden or not images")
    if out.resolve() != folder.resolve():
        images = [path for path in images if not path.resolve().is_relative_to(out.resolve())]
    if not images:
        raise UserError(f"{folder} contains no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return images


def _unused(target: Path, taken: set[Path]) -> Path:
    """The target, with a number if an earlier image has the same one."""
    number, unused = 1, target
    while unused in taken:
        number += 1
        unused = target.with_stem(f"{target.stem}_{number}")
    return unused
