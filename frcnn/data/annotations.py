"""The table ``annotations`` of a COCO file, checked as columns in NumPy: a million annotations take seconds.

Entries as COCO defines them are packed at once; only others take the slow path of :func:`_repair`. An annotation that
cannot be used becomes a Problem with its id and reason.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.box_format import BoxFormat, to_xywh
from frcnn.data.image_table import ImageTable
from frcnn.data.json_values import as_integer, as_number
from frcnn.data.problems import Notes, Problem, shorten
from frcnn.data.segmentation import segmentation_box

EDGE_TOLERANCE = 1.0  # pixels that a box may extend over the image's edge before the clipping is reported

# One packed annotation: ids, crowd flag, area, and the bbox as in the file.
_ROW = struct.Struct("=qqqq5d")
_ROW_DTYPE = np.dtype(
    [("id", "=i8"), ("image", "=i8"), ("category", "=i8"), ("crowd", "=i8"), ("area", "=f8"), ("bbox", "=f8", 4)]
)


class PackedAnnotations(NamedTuple):
    """Annotations with values of the right types, ``M`` rows in the file's order.

    Attributes:
        table: ``[M]`` with the fields id, image, category, crowd, area (NaN where not given) and bbox.
        derived: ``[M]`` bool, whether ``bbox`` was computed from the segmentation and is in pixels.
        has_ids: whether every annotation has an id of its own in the file; the rows are numbered otherwise.
        name: of row m in messages.
        problems: annotations that cannot be used.
        notes: what was corrected.
    """

    table: np.ndarray
    derived: np.ndarray
    has_ids: bool
    name: Callable[[int], str]
    problems: list[Problem]
    notes: Notes


class CheckedAnnotations(NamedTuple):
    """Annotations that can be used, ``M`` rows in the file's order.

    Attributes:
        table: ``[M]``, as in PackedAnnotations, with ``bbox`` as pixels ``(x, y, width, height)``.
        positions: ``[M]``, position of each annotation's image in the image table.
        boxes: ``[M, 4]`` float32 xyxy, clipped to the image.
        problems: annotations that cannot be used.
        notes: what was corrected.
    """

    table: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    problems: list[Problem]
    notes: Notes


def pack_annotations(entries: list[Any]) -> PackedAnnotations:
    """Pack the list ``annotations`` of a file into columns."""
    rows = bytearray()
    problems: list[Problem] = []
    skipped: list[int] = []
    derived: list[int] = []
    converted = without_id = 0
    for position, entry in enumerate(entries):
        try:
            x, y, width, height = entry["bbox"]
            area = entry.get("area")
            rows += _ROW.pack(
                entry["id"],
                entry["image_id"],
                entry["category_id"],
                entry.get("iscrowd") or 0,
                math.nan if area is None else area,
                x,
                y,
                width,
                height,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error):
            repaired = _repair(position, entry)
            if isinstance(repaired, Problem):
                problems.append(repaired)
                skipped.append(position)
                continue
            if _lacks_box(entry):
                derived.append(position - len(skipped))
            else:
                converted += 1
            annotation_id, *values = repaired
            without_id += annotation_id is None
            rows += _ROW.pack(annotation_id or 0, *values)
    table = np.frombuffer(rows, _ROW_DTYPE)
    positions = np.delete(np.arange(len(entries)), skipped)
    is_derived = np.zeros(len(table), bool)
    is_derived[derived] = True
    unusable_ids = max(without_id, len(table) - len(np.unique(table["id"])))
    notes: Notes = {}
    if unusable_ids:
        table["id"] = positions + 1
        sentence = "annotation ids that are missing, repeated or not integers; all annotations were numbered instead"
        notes["renumbered_ids"] = (unusable_ids, sentence)
    if derived:
        notes["derived_boxes"] = (len(derived), "boxes computed from 'segmentation', since 'bbox' is missing")
    if converted:
        notes["converted_values"] = (converted, "annotations with numbers as text, or whole numbers as decimals")

    def name(row: int) -> str:
        return f"entry {positions[row]} of 'annotations'" if unusable_ids else f"annotation {table['id'][row]}"

    return PackedAnnotations(table, is_derived, not unusable_ids, name, problems, notes)


def _lacks_box(entry: dict[str, Any]) -> bool:
    return entry.get("bbox") in (None, [])


def _repair(position: int, entry: Any) -> tuple[Any, ...] | Problem:
    """Values of a row for an entry that is not as COCO defines it; the id is None where it has no usable one."""
    if not isinstance(entry, dict):
        reason = f"entry {position} of 'annotations' is {shorten(entry)}; expected an object"
        return Problem("malformed", None, None, reason)
    annotation_id, image_id, category_id = (as_integer(entry.get(key)) for key in ("id", "image_id", "category_id"))
    name = f"annotation {annotation_id}" if annotation_id is not None else f"entry {position} of 'annotations'"

    def problem(kind: str, key: str, expected: str) -> Problem:
        reason = f"{name} has the {key} {shorten(entry.get(key))}; expected {expected}"
        return Problem(kind, annotation_id, image_id, reason)

    if image_id is None or category_id is None:
        return problem("malformed", "image_id" if image_id is None else "category_id", "an integer")
    crowd = as_integer(entry.get("iscrowd") or 0)
    if crowd is None:
        return problem("malformed", "iscrowd", "0 or 1")
    bbox = entry.get("bbox")
    if _lacks_box(entry):
        bbox = segmentation_box(entry.get("segmentation"))
        if bbox is None:
            return problem("no_box", "bbox", "four numbers, or a 'segmentation' with an area")
    numbers = [as_number(value) for value in bbox] if isinstance(bbox, list | tuple) else []
    if len(numbers) != 4 or None in numbers:
        return problem("malformed", "bbox", "four numbers x, y, width, height")
    area = as_number(entry.get("area"))  # one that is not a number counts as not given: the metric alone uses it
    return annotation_id, image_id, category_id, crowd, math.nan if area is None else area, *numbers


def check_annotations(
    packed: PackedAnnotations,
    images: ImageTable,
    category_ids: tuple[int, ...],
    box_format: BoxFormat | None,
    source: str,
) -> CheckedAnnotations:
    """Check references and boxes, convert boxes to pixels, and clip them to their image.

    Args:
        packed: the annotations; the table is changed.
        box_format: of the boxes, see :func:`frcnn.data.box_format.to_xywh`.
        source: the file, for messages.

    Raises:
        UserError: the boxes look as if they were in another format.
    """
    table, notes, problems = packed.table, dict(packed.notes), list(packed.problems)
    good = np.ones(len(table), bool)

    def reject(bad: np.ndarray, kind: str, describe: Callable[[int], str]) -> None:
        for row in np.flatnonzero(bad & good).tolist():
            annotation_id = int(table["id"][row]) if packed.has_ids else None
            sentence = f"{packed.name(row)} {describe(row)}"
            problems.append(Problem(kind, annotation_id, int(table["image"][row]), sentence))
        good[bad] = False

    merged = _redirect(table, images.merged)
    image_ids = np.array([entry.image_id for entry in images.entries], np.int64)
    positions = np.minimum(np.searchsorted(image_ids, table["image"]), len(image_ids) - 1)

    def of_image(row: int) -> str:
        entry = images.entries[positions[row]]
        return f"(image {entry.image_id}, {entry.file_name})"

    reject(
        image_ids[positions] != table["image"],
        "unknown_image",
        lambda row: f"belongs to image {table['image'][row]}, which 'images' does not list",
    )
    reject(
        ~np.isin(table["category"], category_ids),
        "unknown_category",
        lambda row: f"{of_image(row)} has the category {table['category'][row]}, which 'categories' does not list",
    )
    sizes = np.array([(entry.width, entry.height) for entry in images.entries], np.float64)[positions]
    written = table["bbox"].copy()
    table["bbox"] = _in_pixels(table, packed.derived, sizes, good, box_format, source)
    boxes, corners, faults = _clip(table["bbox"], sizes)

    def of_box(row: int) -> str:
        return f"{of_image(row)}: bbox [{', '.join(f'{value:g}' for value in written[row])}]"

    reject(faults.not_finite, "not_finite", lambda row: f"{of_box(row)} holds a number that is not finite")
    reject(faults.no_area, "no_area", lambda row: f"{of_box(row)} has no area")
    reject(
        faults.outside_image,
        "outside_image",
        lambda row: f"{of_box(row)} lies outside the image of {sizes[row][0]:g} x {sizes[row][1]:g} pixels",
    )
    copies = good & merged & _repeated(table, positions, merged)
    if copies.any():
        notes["merged_boxes"] = (int(copies.sum()), "boxes that an entry of the same image file repeats; used once")
        good &= ~copies
    clipped = good & (np.abs(boxes - corners).max(axis=1, initial=0.0) > EDGE_TOLERANCE)
    if clipped.any():
        sentence = f"boxes that extend over the image's edge by more than {EDGE_TOLERANCE:g} pixel, clipped"
        notes["clipped_boxes"] = (int(clipped.sum()), sentence)
    return CheckedAnnotations(table[good], positions[good], boxes[good], problems, notes)


def _redirect(table: np.ndarray, merged: dict[int, int]) -> np.ndarray:
    """Let annotations of removed image entries refer to the kept ones; which rows belong to a merged image."""
    if not merged:
        return np.zeros(len(table), bool)
    removed = np.array(sorted(merged), np.int64)
    kept = np.array([merged[image_id] for image_id in removed.tolist()], np.int64)
    rows = np.isin(table["image"], removed)
    table["image"][rows] = kept[np.searchsorted(removed, table["image"][rows])]
    return np.isin(table["image"], kept)


def _repeated(table: np.ndarray, positions: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Rows that an earlier one of the same image equals in class, box and crowd flag."""
    rows = np.flatnonzero(among)
    columns = [positions[rows], table["category"][rows], table["crowd"][rows] != 0, *table["bbox"][rows].T]
    repeated = np.zeros(len(table), bool)
    if len(rows):
        first = np.unique(np.stack(columns, axis=1).astype(np.float64), axis=0, return_index=True)[1]
        repeated[np.delete(rows, first)] = True
    return repeated


def _in_pixels(
    table: np.ndarray,
    derived: np.ndarray,
    sizes: np.ndarray,
    good: np.ndarray,
    box_format: BoxFormat | None,
    source: str,
) -> np.ndarray:
    if box_format == "normalized_xywh":  # such files give areas as shares of the image too
        table["area"][~(table["area"] > 1.0)] = np.nan
    pixels = to_xywh(table["bbox"], sizes, good & ~derived, box_format, source)
    return np.where(derived[:, None], table["bbox"], pixels)


class _Faults(NamedTuple):
    """Rows ``[M]`` bool with unusable boxes; a row may have several faults."""

    not_finite: np.ndarray
    no_area: np.ndarray
    outside_image: np.ndarray


def _clip(bbox: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Faults]:
    """Boxes clipped to their image ``[M, 4]`` float32 xyxy, the corners before clipping, and faults."""
    finite = np.isfinite(bbox).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.where(finite[:, None], np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1), 0.0)
        boxes = np.clip(corners, 0.0, np.tile(sizes, 2)).astype(np.float32)
        single = corners.astype(np.float32)
    has_area = (single[:, 2:] > single[:, :2]).all(axis=1)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes, corners, _Faults(*map(np.logical_not, (finite, has_area, visible)))
