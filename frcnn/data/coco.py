"""An annotation file and its images folder -> a validated, immutable index of images and boxes.

The annotation file is COCO's ``instances`` JSON with any categories. It is read once and checked as columns in NumPy;
only what training and evaluation need is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from frcnn.data.annotations import CheckedAnnotations, check_annotations, pack_annotations
from frcnn.data.box_format import BoxFormat
from frcnn.data.coco_tables import CategoryTable, read_categories, read_tables
from frcnn.data.image_table import ImageTable, read_images
from frcnn.data.problems import Problem, first_few, quoted
from frcnn.data.splits import find_split
from frcnn.data.summary import DatasetSummary, group_problems
from frcnn.errors import UserError

__all__ = ["ImageRecord", "Index", "Problem", "check_same_classes", "find_split", "load_index", "match_classes"]


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its objects; arrays are read-only and sorted by annotation id.

    Attributes:
        boxes: ``[N, 4]`` float32 ``(x1, y1, x2, y2)``, pixels, clipped to the image, all with a positive area.
        labels: ``[N]`` int32 in 1..K.
        areas: ``[N]`` float32, square pixels: the annotation's own ``area`` where given, as the COCO metric defines it.
        crowd: ``[N]`` bool, regions that are neither objects nor background.
        annotation_ids: ``[N]`` int64, as in the file if these are unique, or else numbered in the file's order.
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
    """A split of a dataset, sorted by image id.

    Attributes:
        class_names: label k in 1..K is ``class_names[k - 1]``; ascending category ids.
        category_ids: label k is ``category_ids[k - 1]`` in the file.
        problems: annotations that are not used.
        summary: how many images and annotations are used, skipped and corrected.
        fingerprint: sha256 of everything that training and evaluation see, except the images' bytes and folder.
        source: the annotation file.
    """

    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...]
    summary: DatasetSummary
    fingerprint: str
    source: Path


def load_index(
    images: Path,
    annotations: Path,
    on_bad_annotation: Literal["skip", "error"] = "skip",
    *,
    box_format: BoxFormat | None = None,
    require_images: bool = True,
) -> Index:
    """Read and check a COCO instances file; no image is opened unless the file leaves out its size.

    Args:
        images: folder that ``file_name`` entries are relative to.
        annotations: the JSON file.
        on_bad_annotation: skip unusable annotations and list them in ``Index.problems``, or refuse the file.
        box_format: of ``bbox``; None is ``xywh``, but a file that looks like another format is refused.
        require_images: refuse a file that names images which are not in the folder.

    Raises:
        UserError: broken JSON (file, line, column), broken image or category table, boxes of another format, missing
            images, or any unusable annotation under ``"error"``.
    """
    tree = read_tables(annotations)
    table = read_images(tree["images"], annotations, images)
    if require_images and table.missing:
        raise UserError(
            f"{len(table.missing)} of the {len(table.entries)} images that {annotations} names are not in {images}: "
            f"{first_few(table.missing)}; give the right images folder, add the files, or remove their entries"
        )
    packed = pack_annotations(tree["annotations"])
    categories = read_categories(tree["categories"], set(np.unique(packed.table["category"]).tolist()), annotations)
    checked = check_annotations(packed, table, categories.ids, box_format, str(annotations))
    if checked.problems and on_bad_annotation == "error":
        raise UserError(
            f"{annotations} has {len(checked.problems)} bad annotations and data.on_bad_annotation is 'error': "
            f"{first_few(problem.reason for problem in checked.problems)}; correct them, or set "
            "data.on_bad_annotation=skip"
        )
    columns = _columns(checked, categories, len(table.entries))
    records = _records(table, columns)
    return Index(
        images=records,
        class_names=categories.names,
        category_ids=categories.ids,
        problems=tuple(checked.problems),
        summary=DatasetSummary(
            source=annotations,
            images=len(records),
            without_objects=sum(bool(record.crowd.all()) for record in records),
            annotations=len(tree["annotations"]),
            objects=int((~columns.crowd).sum()),
            crowds=int(columns.crowd.sum()),
            skipped=group_problems(checked.problems),
            notes={**table.notes, **categories.notes, **checked.notes},
        ),
        fingerprint=_fingerprint(categories.names, table, columns),
        source=annotations,
    )


def match_classes(index: Index, class_names: Sequence[str]) -> Index:
    """The index with labels 1..K in the order of ``class_names``, which may hold classes that the index lacks.

    Classes of the index that no annotation uses are dropped.

    Raises:
        UserError: annotations of the index have classes that ``class_names`` lacks.
    """
    if index.class_names == tuple(class_names):
        return index
    used = np.unique(np.concatenate([np.zeros(0, np.int32), *(record.labels for record in index.images)]))
    unknown = [name for name in (index.class_names[label - 1] for label in used) if name not in class_names]
    if unknown:
        raise UserError(
            f"{index.source} has classes that the model or training file does not have: {quoted(unknown)}; "
            f"expected only {quoted(class_names)}; correct the names under 'categories' so that both files agree"
        )
    id_of = dict(zip(index.class_names, index.category_ids, strict=True))
    spare = max(index.category_ids, default=0)
    category_ids = []
    for name in class_names:
        if name not in id_of:
            spare += 1  # a class without objects here: any free id serves
        category_ids.append(id_of.get(name, spare))
    label_of = {name: label for label, name in enumerate(class_names, start=1)}
    lookup = np.array([0] + [label_of.get(name, 0) for name in index.class_names], np.int32)
    records = tuple(replace(record, labels=_frozen(lookup[record.labels])) for record in index.images)
    return replace(index, images=records, class_names=tuple(class_names), category_ids=tuple(category_ids))


def check_same_classes(train: Index, validation: Index) -> Index:
    """``validation`` with the labels of ``train``, matched by class name; see :func:`match_classes`."""
    return match_classes(validation, train.class_names)


class _Columns(NamedTuple):
    """Usable annotations by image, then by id; fields as in ImageRecord, and where the rows of each image end."""

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    annotation_ids: np.ndarray
    ends: np.ndarray


def _columns(checked: CheckedAnnotations, categories: CategoryTable, images: int) -> _Columns:
    order = np.lexsort((checked.table["id"], checked.positions))
    table, boxes = checked.table[order], checked.boxes[order]
    with np.errstate(over="ignore"):
        areas = table["bbox"][:, 2] * table["bbox"][:, 3]
        given = np.isfinite(table["area"]) & (table["area"] > 0)
        areas = np.where(given, table["area"], areas).astype(np.float32)
    return _Columns(
        boxes=_frozen(boxes),
        labels=_frozen((np.searchsorted(categories.ids, table["category"]) + 1).astype(np.int32)),
        areas=_frozen(np.where(np.isfinite(areas), areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))),
        crowd=_frozen(table["crowd"] != 0),
        annotation_ids=_frozen(table["id"].copy()),
        ends=np.searchsorted(checked.positions[order], np.arange(images), side="right"),
    )


def _records(table: ImageTable, columns: _Columns) -> tuple[ImageRecord, ...]:
    records = []
    start = 0
    for entry, path, end in zip(table.entries, table.paths, columns.ends.tolist(), strict=True):
        rows = [column[start:end] for column in columns[:5]]
        records.append(ImageRecord(entry.image_id, path, entry.width, entry.height, *rows))
        start = end
    return tuple(records)


def _fingerprint(class_names: tuple[str, ...], table: ImageTable, columns: _Columns) -> str:
    digest = hashlib.sha256(json.dumps([class_names, table.entries]).encode())
    for column in columns:
        digest.update(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
