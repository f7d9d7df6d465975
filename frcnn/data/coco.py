"""A channel on disk -> a validated, immutable index of images and boxes.

The annotation file is COCO's ``instances`` JSON with any categories. It is read once, checked as columns in NumPy, and
only what training and evaluation need is kept: polygons are dropped while the file is parsed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from frcnn.data.annotations import AnnotationFile, ImageEntry, Problem, few, read_annotation_file
from frcnn.data.splits import find_split, missing_files
from frcnn.errors import UserError

__all__ = ["ImageRecord", "Index", "Problem", "check_same_classes", "find_split", "load_index", "match_classes"]


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its objects; arrays are read-only and sorted by annotation id.

    Attributes:
        boxes: ``[N, 4]`` float32 ``(x1, y1, x2, y2)``, pixels, clipped to the image, all with a positive area.
        labels: ``[N]`` int32 in 1..K.
        areas: ``[N]`` float32, square pixels: the annotation's own ``area`` where given, as the COCO metric wants it.
        crowd: ``[N]`` bool, regions that are neither objects nor background.
        annotation_ids: ``[N]`` int64.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    annotation_ids: np.ndarray


@dataclass(frozen=True, eq=False)
class Index:
    """A split of a data set, sorted by image id.

    Attributes:
        class_names: label k in 1..K is ``class_names[k - 1]``; ascending category ids.
        category_ids: label k is ``category_ids[k - 1]`` in the file.
        problems: annotations that were left out.
        clipped: boxes that reached over the image's edge by more than a pixel and were cut.
        fingerprint: sha256 of everything that training and evaluation see, files' bytes and folders excepted.
        source: the annotation file.
    """

    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...]
    clipped: int
    fingerprint: str
    source: Path


def load_index(
    images: Path,
    annotations: Path,
    on_bad_annotation: Literal["skip", "error"] = "skip",
    *,
    require_images: bool = True,
) -> Index:
    """Read and check a COCO instances file; no image is opened unless the file leaves out its size.

    Args:
        images: folder that ``file_name`` entries start from.
        annotations: the JSON file.
        on_bad_annotation: leave bad annotations out and list them in ``Index.problems``, or refuse the file.
        require_images: refuse a file that names images which are not in the folder.

    Raises:
        UserError: broken JSON (file, line, column), broken image or category table, missing images, or any bad annotation
            under ``"error"``.
    """
    file = read_annotation_file(annotations, images)
    names = [entry.file_name for entry in file.images]
    if require_images and (missing := missing_files(images, names)):
        raise UserError(
            f"{len(missing)} of the {len(names)} images that {annotations} names are not in {images}: {few(missing)}; "
            "give the right images folder, add the files, or remove their entries"
        )
    if file.problems and on_bad_annotation == "error":
        raise UserError(
            f"{annotations} has {len(file.problems)} bad annotations and data.on_bad_annotation is 'error': "
            f"{few(problem.reason for problem in file.problems)}; mend them, or set data.on_bad_annotation=skip"
        )
    columns = _columns(file)
    fingerprint = _fingerprint(file, columns)
    records = _records(file.images, columns, images)
    return Index(
        records, file.class_names, file.category_ids, tuple(file.problems), file.clipped, fingerprint, annotations
    )


def match_classes(index: Index, class_names: Sequence[str]) -> Index:
    """The index with labels 1..K in the order of ``class_names``, which may hold classes that the index lacks.

    Raises:
        UserError: the index has classes that ``class_names`` lacks.
    """
    if index.class_names == tuple(class_names):
        return index
    unknown = [name for name in index.class_names if name not in class_names]
    if unknown:
        raise UserError(
            f"{index.source} has classes that the model or training file does not have: {few(unknown)}; "
            f"expected only {few(class_names)}; correct the names under 'categories' so that both files agree"
        )
    id_of = dict(zip(index.class_names, index.category_ids, strict=True))
    spare = max(index.category_ids, default=0)
    category_ids = []
    for name in class_names:
        if name not in id_of:
            spare += 1  # a class without objects here: any free id serves
        category_ids.append(id_of.get(name, spare))
    lookup = np.array([0] + [class_names.index(name) + 1 for name in index.class_names], np.int32)
    records = tuple(replace(record, labels=_frozen(lookup[record.labels])) for record in index.images)
    return replace(index, images=records, class_names=tuple(class_names), category_ids=tuple(category_ids))


def check_same_classes(train: Index, validation: Index) -> Index:
    """``validation`` with the labels of ``train``, matched by class name (category ids may differ); see :func:`match_classes`."""
    return match_classes(validation, train.class_names)


class _Columns(NamedTuple):
    """The good annotations by image, then by annotation id; fields as in ImageRecord, and where each image's rows end."""

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    annotation_ids: np.ndarray
    ends: np.ndarray


def _columns(file: AnnotationFile) -> _Columns:
    order = np.lexsort((file.table["id"], file.positions))
    table = file.table[order]
    own_area = table["bbox"][:, 2] * table["bbox"][:, 3]
    areas = np.where(np.isfinite(table["area"]) & (table["area"] > 0), table["area"], own_area)
    return _Columns(
        boxes=_frozen(file.boxes[order]),
        labels=_frozen((np.searchsorted(file.category_ids, table["category"]) + 1).astype(np.int32)),
        areas=_frozen(areas.astype(np.float32)),
        crowd=_frozen(table["crowd"] != 0),
        annotation_ids=_frozen(table["id"].copy()),
        ends=np.searchsorted(file.positions[order], np.arange(len(file.images)), side="right"),
    )


def _records(entries: list[ImageEntry], columns: _Columns, folder: Path) -> tuple[ImageRecord, ...]:
    records = []
    start = 0
    for entry, end in zip(entries, columns.ends.tolist(), strict=True):
        rows = [column[start:end] for column in columns[:5]]
        records.append(ImageRecord(entry.image_id, folder / entry.file_name, entry.width, entry.height, *rows))
        start = end
    return tuple(records)


def _fingerprint(file: AnnotationFile, columns: _Columns) -> str:
    digest = hashlib.sha256(json.dumps([file.class_names, file.images]).encode())
    for column in columns:
        digest.update(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
