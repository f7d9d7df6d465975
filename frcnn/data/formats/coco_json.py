"""Clean a COCO ``instances`` file of any exporter: repair ids, types, names, sizes and boxes, skip what is unusable.

The result has boxes only, no segmentations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from frcnn.data.box_format import BoxFormat, to_xywh
from frcnn.data.formats.builder import LARGEST_COORDINATE, CocoBuilder, Conversion
from frcnn.data.formats.image_finder import ImageFinder, annotated_size, images_folder, safe_name
from frcnn.data.formats.regions import Box, corners_to_box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import clean_name, read_json, short, to_size
from frcnn.data.json_values import as_integer, as_number
from frcnn.data.segmentation import segmentation_box
from frcnn.errors import UserError

TABLES = ("images", "annotations", "categories")
REPLACED = ("id", "file_name", "width", "height")  # columns of the image table that are written anew


def _from_corners(numbers: Box, size: tuple[int, int] | None) -> Box:
    return corners_to_box(*numbers)


def _from_shares(numbers: Box, size: tuple[int, int] | None) -> Box | None:
    if size is None:
        return None
    x, y, width, height = numbers
    return x * size[0], y * size[1], width * size[0], height * size[1]


CONVERSIONS: dict[str, Callable[[Box, tuple[int, int] | None], Box | None]] = {
    "xywh": lambda numbers, size: numbers,
    "xyxy": _from_corners,
    "normalized_xywh": _from_shares,
}


def clean_coco(source: Path, *, images: Path | None = None, box_format: BoxFormat | None = None) -> Conversion:
    """Clean a COCO file. Category ids are kept; image and annotation ids are renumbered.

    Args:
        source: the JSON file.
        images: folder with the images; files are looked for in it, and those that are missing are left out. None: the
            images are not looked for.
        box_format: of ``bbox``: ``xywh`` (COCO), ``xyxy`` (corners) or ``normalized_xywh`` (shares of the sides). None:
            ``xywh``, but a file whose boxes look like another format is refused.

    Raises:
        UserError: the file is not COCO's, nothing in it is usable, or its boxes contradict the format.
    """
    content = read_json(source)
    if not isinstance(content, dict) or not all(isinstance(content.get(table), list) for table in TABLES[:2]):
        raise UserError(f"{source} has no lists 'images' and 'annotations'; expected COCO instances JSON")
    report = Report()
    tables = CocoBuilder(source, report)
    folder = images_folder(images)
    names = _read_categories(content, tables, report)
    ids, sizes = _read_images(content["images"], tables, ImageFinder(folder) if folder else None, report)
    _check_box_format(content["annotations"], ids, sizes, box_format, source)
    convert = CONVERSIONS[box_format or "xywh"]
    for number, entry in enumerate(content["annotations"], start=1):
        _add_annotation(entry, f"annotation {number}", tables, names, ids, sizes, convert, report)
    return Conversion(tables.build(), report, folder)


def _check_box_format(
    annotations: list[Any],
    ids: dict[int, int],
    sizes: dict[int, tuple[int, int] | None],
    box_format: BoxFormat | None,
    source: Path,
) -> None:
    """Refuse boxes that look like another format than the given one, as training does."""
    known = []
    for entry in annotations:
        numbers = _bbox(entry) if isinstance(entry, dict) else None
        size = sizes.get(ids.get(as_integer(entry["image_id"]) or 0, 0)) if numbers and "image_id" in entry else None
        if numbers and size and all(abs(number) < LARGEST_COORDINATE for number in numbers):  # false for NaN
            known.append((numbers, size))
    boxes = np.array([numbers for numbers, _ in known], np.float64).reshape(-1, 4)
    limits = np.array([size for _, size in known], np.float64).reshape(-1, 2)
    to_xywh(boxes, limits, np.ones(len(boxes), bool), box_format, str(source))


def _bbox(entry: dict[str, Any]) -> Box | None:
    """The four numbers of ``bbox``; None if it is anything else."""
    values = entry.get("bbox")
    numbers = [as_number(value) for value in values] if isinstance(values, list) else []
    if len(numbers) != 4 or any(number is None for number in numbers):
        return None
    x, y, width, height = (number or 0.0 for number in numbers)
    return x, y, width, height


def _read_categories(content: dict[str, Any], tables: CocoBuilder, report: Report) -> dict[int, str]:
    names: dict[int, str] = {}
    entries = content["categories"] if isinstance(content.get("categories"), list) else []
    groups = _group_ids([entry for entry in entries if isinstance(entry, dict)], content["annotations"])
    for number, entry in enumerate(entries, start=1):
        category_id = as_integer(entry.get("id")) if isinstance(entry, dict) else None
        name = clean_name(entry.get("name")) if isinstance(entry, dict) else ""
        if category_id is None or not name:
            report.skip("categories without id and name", f"category {number}: {short(entry)}")
        elif category_id in names:
            report.skip("categories whose id another one has", f"category {number}: {category_id} {name!r}")
        elif category_id in groups:
            report.skip("categories without objects that only group others", repr(name))
        else:
            if name != entry["name"]:
                report.repair("class names with control characters or surrounding space", short(entry["name"]))
            names[category_id] = name
            tables.declare(name, category_id, f"category {number}")
    return names


def _group_ids(categories: list[dict[str, Any]], annotations: list[Any]) -> set[int]:
    """Ids of categories without objects that are the supercategory of another.

    Some exporters list the dataset's name as category 0; a class that does not exist would then be evaluated.
    """
    used = {as_integer(entry.get("category_id")) for entry in annotations if isinstance(entry, dict)}
    groups = set()
    for category in categories:
        category_id, name = as_integer(category.get("id")), clean_name(category.get("name"))
        others = (other for other in categories if as_integer(other.get("id")) != category_id)
        is_group = bool(name) and any(clean_name(other.get("supercategory")) == name for other in others)
        if category_id is not None and category_id not in used and is_group:
            groups.add(category_id)
    return groups


def _read_images(
    entries: list[Any], tables: CocoBuilder, finder: ImageFinder | None, report: Report
) -> tuple[dict[int, int], dict[int, tuple[int, int] | None]]:
    """New image ids by those of the file, and sizes by new id."""
    ids: dict[int, int] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    for number, entry in enumerate(entries, start=1):
        place = f"image {number}"
        image_id = as_integer(entry.get("id")) if isinstance(entry, dict) else None
        written = entry.get("file_name") if isinstance(entry, dict) else None
        if image_id is None or not isinstance(written, str) or not safe_name(written):
            report.skip("images without id and file_name", f"{place}: {short(entry)}")
            continue
        if image_id in ids:
            report.skip("images whose id another one has", f"{place}: {image_id} {written}")
            continue
        name = finder.find(written) if finder else safe_name(written)
        if name is None:
            report.skip("images whose file is missing", written)
            continue
        if name != written:
            report.repair("paths of images", f"{written} -> {name}")
        if finder:
            size = annotated_size(entry.get("width"), entry.get("height"), finder.folder / name, written, report)
            if size is None:
                continue
        else:
            size = to_size(entry.get("width"), entry.get("height"))
            if size is None:
                report.note("images without a size, which is then read from the image file", written)
        more = {
            key: value for key, value in entry.items() if key not in REPLACED and isinstance(value, str | int | float)
        }
        ids[image_id] = tables.add_image(name, size, place, **_finite(more))
        sizes.setdefault(ids[image_id], size)
    return ids, sizes


def _finite(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns that JSON can express: not NaN or infinity."""
    return {key: value for key, value in columns.items() if not isinstance(value, float) or abs(value) < float("inf")}


def _add_annotation(
    entry: Any,
    place: str,
    tables: CocoBuilder,
    names: dict[int, str],
    ids: dict[int, int],
    sizes: dict[int, tuple[int, int] | None],
    convert: Callable[[Box, tuple[int, int] | None], Box | None],
    report: Report,
) -> None:
    if not isinstance(entry, dict):
        return report.skip("annotations that are not JSON objects", f"{place}: {short(entry)}")
    if isinstance(entry.get("id"), int):
        place = f"annotation id {entry['id']}"
    image_id, category_id = as_integer(entry.get("image_id")), as_integer(entry.get("category_id"))
    if image_id is None or image_id not in ids:
        return report.skip("annotations of images that are not listed or were skipped", f"{place}: {short(image_id)}")
    if category_id is None or category_id not in names:
        return report.skip("annotations of categories that are not listed", f"{place}: {short(category_id)}")
    numbers = _bbox(entry)
    if numbers is not None:
        box = convert(numbers, sizes[ids[image_id]])
        if box is None:
            return report.skip("normalized boxes in images without a size (give --images)", place)
    else:
        box = segmentation_box(entry.get("segmentation"))
        if box is None:
            kind = "annotations without a bbox of four numbers or a segmentation"
            return report.skip(kind, f"{place}: {short(entry.get('bbox'))}")
        report.repair("boxes derived from the segmentation", place)
    area = as_number(entry.get("area"))
    crowd = bool(as_integer(entry.get("iscrowd")) or entry.get("iscrowd") is True)
    if crowd:
        report.note("crowd regions (iscrowd), which are not trained on", place)
    tables.add_box(ids[image_id], names[category_id], box, place, crowd=crowd, area=area)
