"""The three tables of a COCO ``instances`` file, checked: images, categories, annotations.

Whatever can be wrong with one annotation becomes a Problem with its id and reason; a broken file, image table or category
table is a UserError. Annotations are checked as columns in NumPy, a million take seconds.
"""

from __future__ import annotations

import gc
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from frcnn.data.decode import UnreadableImage, upright_size
from frcnn.data.splits import check_file_name
from frcnn.errors import UserError

NAMED_IN_ERRORS = 5  # a message names this many offenders and counts the others
EDGE_TOLERANCE = 1.0  # pixels that a box may reach over the image's edge before the clip is worth a remark


class Problem(NamedTuple):
    """One annotation that cannot be trained on.

    Attributes:
        kind: ``malformed``, ``not_finite``, ``no_area``, ``outside_image``, ``unknown_image``, ``unknown_category`` or ``duplicate_id``.
        annotation_id: as in the file; None where it has no usable one.
        image_id: as in the file; None where it has no usable one.
        reason: sentence with the value found.
    """

    kind: str
    annotation_id: int | None
    image_id: int | None
    reason: str


class ImageEntry(NamedTuple):
    """One row of the image table."""

    image_id: int
    file_name: str
    width: int
    height: int


class AnnotationFile(NamedTuple):
    """What a file holds that can be used, ``M`` good annotations in the file's order.

    Attributes:
        images: sorted by id.
        category_ids: ascending.
        class_names: of the categories, made unique.
        table: ``[M]`` with the fields id, image, category, crowd, area (NaN where not given), bbox.
        positions: ``[M]``, position of each annotation's image in ``images``.
        boxes: ``[M, 4]`` float32 xyxy, clipped to the image.
        clipped: how many boxes reached over the edge by more than ``EDGE_TOLERANCE``.
        problems: the annotations that cannot be used.
    """

    images: list[ImageEntry]
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    table: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    clipped: int
    problems: list[Problem]


# One annotation as it is packed while reading: ids, crowd flag, area, bbox as COCO has it (x, y, width, height).
_ROW = struct.Struct("=qqqq5d")
_ROW_DTYPE = np.dtype(
    [("id", "=i8"), ("image", "=i8"), ("category", "=i8"), ("crowd", "=i8"), ("area", "=f8"), ("bbox", "=f8", 4)]
)


def read_annotation_file(file: Path, folder: Path) -> AnnotationFile:
    """Read and check a COCO instances file whose images are below ``folder``.

    Raises:
        UserError: broken JSON (file, line, column), image table or category table.
    """
    tree = _read_json(file)
    category_ids, class_names = _read_categories(tree["categories"], file)
    images = _read_images(tree["images"], file, folder)
    table, problems = _read_annotations(tree["annotations"])
    positions, referable = _check_references(table, images, category_ids, problems)
    boxes, clipped, good = _check_boxes(table, images, positions, referable, problems)
    return AnnotationFile(
        images, category_ids, class_names, table[good], positions[good], boxes[good], clipped, problems
    )


def _read_json(file: Path) -> dict[str, Any]:
    def without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
        entry.pop("segmentation", None)
        return entry

    collecting = gc.isenabled()
    gc.disable()  # millions of small objects without cycles: the collector would only walk them again and again
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"), object_hook=without_polygons)
    except OSError as error:
        raise UserError(f"annotation file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"annotation file {file} is not UTF-8 text (byte {error.start}); expected COCO instances JSON"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"annotation file {file} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise UserError(f"annotation file {file} is nested too deeply to be COCO instances JSON") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(tree, dict):
        raise UserError(
            f"annotation file {file} holds a {type(tree).__name__}; expected an object with 'images', 'annotations' and 'categories'"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(tree.get(key), list):
            raise UserError(
                f"annotation file {file} has no list {key!r}; expected COCO instances JSON with 'images', 'annotations' and 'categories'"
            )
    return tree


def _read_categories(entries: list[Any], file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids ascending, and their names made unique."""
    names: dict[int, str] = {}
    for position, entry in enumerate(entries):
        category_id, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if not _is_integer(category_id) or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"{file}: entry {position} of 'categories' is {_short(entry)}; expected an integer 'id' and a text 'name'"
            )
        if category_id in names:
            raise UserError(
                f"{file}: category id {category_id} stands for both {names[category_id]!r} and {name!r}; give every category its own id"
            )
        names[category_id] = name
    if not names:
        raise UserError(f"{file}: 'categories' is empty; expected one entry with 'id' and 'name' per class")
    ids = tuple(sorted(names))
    unique: list[str] = []
    for category_id in ids:  # some exporters list a group under the name of its only class
        name, count = names[category_id], 1
        while name in unique:
            count += 1
            name = f"{names[category_id]} ({count})"
        unique.append(name)
    return ids, tuple(unique)


def _read_images(entries: list[Any], file: Path, folder: Path) -> list[ImageEntry]:
    """The image table, sorted by id."""
    images: dict[int, ImageEntry] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(
                f"{file}: entry {position} of 'images' is {_short(entry)}; expected an object with 'id' and 'file_name'"
            )
        image_id, name = entry.get("id"), entry.get("file_name")
        if not _is_integer(image_id) or image_id < 0:
            raise UserError(
                f"{file}: entry {position} of 'images' has the id {_short(image_id)}; expected an integer of 0 or more"
            )
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{file}: image {image_id} has the file_name {_short(name)}; expected a path inside the images folder"
            )
        check_file_name(name, file)
        if image_id in images:
            raise UserError(
                f"{file}: image id {image_id} stands for both {images[image_id].file_name!r} and {name!r}; give every image its own id"
            )
        width, height = entry.get("width"), entry.get("height")
        if width is None and height is None:
            width, height = _size_in_file(folder, name, image_id, file)
        if not (_is_integer(width) and _is_integer(height) and 0 < width < 2**31 and 0 < height < 2**31):
            raise UserError(
                f"{file}: image {image_id} ({name}) has the size {_short(width)} x {_short(height)}; expected positive integers"
            )
        images[image_id] = ImageEntry(image_id, name, width, height)
    if not images:
        raise UserError(
            f"{file}: 'images' is empty; expected one entry with 'id', 'file_name', 'width' and 'height' per image"
        )
    return [images[image_id] for image_id in sorted(images)]


def _size_in_file(folder: Path, name: str, image_id: int, file: Path) -> tuple[int, int]:
    """Width and height from the image's header, upright, for annotation files that leave them out."""
    try:
        return upright_size(folder / name)
    except UnreadableImage as error:
        raise UserError(
            f"{file}: image {image_id} has no 'width' and 'height', and its file does not tell them: {error}"
        ) from error


def _read_annotations(entries: list[Any]) -> tuple[np.ndarray, list[Problem]]:
    """Annotations with the right types as a structured array, and the others as problems."""
    rows = bytearray()
    problems = []
    nan = float("nan")
    for position, entry in enumerate(entries):
        try:
            x, y, width, height = entry["bbox"]
            area = entry.get("area")
            rows += _ROW.pack(
                entry["id"],
                entry["image_id"],
                entry["category_id"],
                entry.get("iscrowd") or 0,
                nan if area is None else area,
                x,
                y,
                width,
                height,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error):
            problems.append(_malformed(position, entry))
    return np.frombuffer(bytes(rows), _ROW_DTYPE), problems


def _malformed(position: int, entry: Any) -> Problem:
    if not isinstance(entry, dict):
        return Problem(
            "malformed", None, None, f"entry {position} of 'annotations' is {_short(entry)}; expected an object"
        )
    annotation_id = entry["id"] if _is_integer(entry.get("id")) else None
    image_id = entry["image_id"] if _is_integer(entry.get("image_id")) else None
    name = f"annotation {annotation_id}" if annotation_id is not None else f"entry {position} of 'annotations'"
    for key in ("id", "image_id", "category_id"):
        if not _is_integer(entry.get(key)):
            return Problem(
                "malformed",
                annotation_id,
                image_id,
                f"{name} has the {key} {_short(entry.get(key))}; expected an integer",
            )
    wrong = "bbox" if not _is_box(entry.get("bbox")) else "area or iscrowd"
    value = entry.get("bbox") if wrong == "bbox" else (entry.get("area"), entry.get("iscrowd"))
    expected = "four numbers x, y, width, height" if wrong == "bbox" else "a number, and 0 or 1"
    return Problem("malformed", annotation_id, image_id, f"{name} has the {wrong} {_short(value)}; expected {expected}")


def _check_references(
    table: np.ndarray, entries: list[ImageEntry], category_ids: tuple[int, ...], problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray]:
    """Position of each annotation's image, and which annotations have own ids, a known image and a known category."""
    image_ids = np.array([entry.image_id for entry in entries], np.int64)
    positions = np.minimum(np.searchsorted(image_ids, table["image"]), len(image_ids) - 1)
    good = np.ones(len(table), bool)

    def reject(bad: np.ndarray, kind: str, sentence: str) -> None:
        for row in table[bad & good]:
            values = {name: row[name].item() for name in ("id", "image", "category")}
            problems.append(Problem(kind, values["id"], values["image"], sentence.format(**values)))
        good[bad] = False

    reject(
        image_ids[positions] != table["image"],
        "unknown_image",
        "annotation {id} belongs to image {image}, which 'images' does not list",
    )
    reject(
        ~np.isin(table["category"], category_ids),
        "unknown_category",
        "annotation {id} (image {image}) has the category {category}, which 'categories' does not list",
    )
    repeated = np.ones(len(table), bool)
    repeated[np.unique(table["id"], return_index=True)[1]] = False
    reject(
        repeated,
        "duplicate_id",
        "annotation id {id} (image {image}) was used before in the file; the first one is kept",
    )
    return positions, good


def _check_boxes(
    table: np.ndarray, entries: list[ImageEntry], positions: np.ndarray, good: np.ndarray, problems: list[Problem]
) -> tuple[np.ndarray, int, np.ndarray]:
    """Clipped xyxy boxes ``[M, 4]`` float32, how many were cut, and which annotations are good."""
    sizes = np.array([(entry.width, entry.height) for entry in entries], np.float64)[positions]
    bbox = table["bbox"]
    finite = np.isfinite(bbox).all(axis=1)
    corners = np.where(finite[:, None], np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1), 0.0)
    limits = np.concatenate([sizes, sizes], axis=1)
    boxes = np.clip(corners, 0.0, limits).astype(np.float32)
    sided = (bbox[:, 2] > 0) & (bbox[:, 3] > 0)
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    for kind, bad in (
        ("not_finite", ~finite),
        ("no_area", finite & ~sided),
        ("outside_image", finite & sided & ~visible),
    ):
        for row in np.flatnonzero(bad & good):
            entry = entries[positions[row]]
            reason = {
                "not_finite": "holds a number that is not finite",
                "no_area": "has no area",
                "outside_image": f"lies outside the image of {entry.width} x {entry.height} pixels",
            }[kind]
            numbers = ", ".join(f"{value:g}" for value in bbox[row])
            sentence = (
                f"annotation {table['id'][row]} (image {entry.image_id}, {entry.file_name}): bbox [{numbers}] {reason}"
            )
            problems.append(Problem(kind, table["id"][row].item(), entry.image_id, sentence))
    good = good & finite & sided & visible
    cut = good & (np.abs(boxes - corners).max(axis=1, initial=0.0) > EDGE_TOLERANCE)
    return boxes, int(cut.sum()), good


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(number, int | float) for number in value)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def few(names: Iterable[str]) -> str:
    """The first names of many, and how many more there are."""
    listed = list(names)
    more = len(listed) - NAMED_IN_ERRORS
    return ", ".join(listed[:NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
