"""Regions of VIA files, by image.

* Version 2, JSON: an object of images by file name and size, or a project with that under ``_via_img_metadata``. Each
  has ``regions``, a list (version 1: an object) of ``shape_attributes`` and ``region_attributes``.
* Version 2, CSV: one region per row, the attributes as JSON in the columns ``region_shape_attributes`` and
  ``region_attributes``.
* Version 3, JSON: ``metadata`` of ``xy``, which is ``[shape id, numbers…]``, and ``av``, values by the id of an
  attribute; the image is reached over ``view`` and ``file``.
* Version 3, CSV: the same ``xy`` and ``av`` in columns that a comment names.

(VIA 2 and 3 source: ``via.js``; ``_via_metadata.js``, ``_via_attribute.js``, ``_via_import_export.js``.)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.data.formats.regions import Box, corners_to_box, ellipse_to_box, points_to_box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import parse_json, read_text, short, split_lines
from frcnn.data.json_values import as_number
from frcnn.errors import UserError

SHAPES_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}
SHAPES_3 |= {8: "extreme_rect", 9: "extreme_circle"}
WITHOUT_AREA = ("point", "line", "polyline")
IMAGE = 2  # the type of image files in version 3
CHOICES = (2, 3, 4)  # types of attributes whose value is the id of an option: checkbox, radio button, menu
CSV_2 = ("filename", "region_shape_attributes", "region_attributes")
CSV_3 = "# CSV_HEADER = "
ATTRIBUTES_3 = ("# ATTRIBUTE = ", "# ATTRIBUTES = ")
FIELD_LIMIT = 2**31 - 1  # characters of a CSV field; the default of 128 KiB is less than a large polygon


class Region(NamedTuple):
    """One region.

    Attributes:
        box: x, y, width, height in pixels.
        attributes: by name.
        place: for the report.
    """

    box: Box
    attributes: dict[str, Any]
    place: str


def read_regions(file: Path, report: Report) -> dict[str, list[Region]]:
    """The regions of all images in a file, by the image's name or address. Images without regions have an empty list.

    Raises:
        UserError: the file is not VIA's.
    """
    text = read_text(file)
    if file.suffix.lower() == ".csv":
        lines = split_lines(text)
        return _read_csv_3(lines, file, report) if lines[0].startswith("#") else _read_csv_2(text, file, report)
    content = parse_json(text, str(file))
    if (
        isinstance(content, dict)
        and isinstance(content.get("metadata"), dict)
        and isinstance(content.get("file"), dict)
    ):
        return _read_json_3(content, report)
    if isinstance(content, dict):
        images = content.get("_via_img_metadata", content)
        if isinstance(images, dict) and any(
            isinstance(image, dict) and "regions" in image for image in images.values()
        ):
            return _read_json_2(images, report)
    raise UserError(f"{file} has no VIA regions; expected a JSON or CSV export of VIA, or a saved project")


def _read_json_2(images: dict[str, Any], report: Report) -> dict[str, list[Region]]:
    result: dict[str, list[Region]] = {}
    for key, image in images.items():
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
            report.skip("images without a file name", short(key))
            continue
        regions = result.setdefault(image["filename"], [])
        entries = image.get("regions")
        listed = list(entries.values()) if isinstance(entries, dict) else entries
        if not isinstance(listed, list):
            report.skip("images without a list 'regions'", image["filename"])
            continue
        for number, entry in enumerate(listed, start=1):
            entry = entry if isinstance(entry, dict) else {}
            place = f"{image['filename']} region {number}"
            _add(regions, entry.get("shape_attributes"), entry.get("region_attributes"), place, report)
    return result


def _read_csv_2(text: str, file: Path, report: Report) -> dict[str, list[Region]]:
    result: dict[str, list[Region]] = {}
    rows = _csv_rows(text, file)
    header = [name.lstrip("#").strip() for name in next(rows, [])]
    if not set(CSV_2) <= set(header):
        raise UserError(f"{file}: the first line has no columns {', '.join(CSV_2)}; expected VIA's CSV export")
    columns = [header.index(name) for name in CSV_2]
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        if len(row) <= max(columns) or not row[columns[0]]:
            report.skip("rows with too few columns", f"row {number}")
            continue
        address, shape, attributes = (row[column] for column in columns)
        regions = result.setdefault(address, [])
        try:
            values = parse_json(shape or "{}", "shape"), parse_json(attributes or "{}", "attributes")
        except UserError as error:
            report.skip("regions that are not valid JSON", f"row {number}: {error}")
            continue
        if values[0] != {}:  # of an image without regions
            _add(regions, *values, f"row {number}", report)
    return result


def _add(regions: list[Region], shape: Any, attributes: Any, place: str, report: Report) -> None:
    """Add a region of version 1 or 2."""
    shape = shape if isinstance(shape, dict) else {}
    name = shape.get("name")
    numbers = {key: as_number(value) for key, value in shape.items()}
    box: Box | None = None
    if name in WITHOUT_AREA:
        return report.skip(f"regions of shape {name}, which has no area", place)
    if name == "rect":
        box = _present(numbers, "x", "y", "width", "height")
    elif name == "circle" and (circle := _present(numbers, "cx", "cy", "r", "r")):
        box = ellipse_to_box(*circle)
    elif name == "ellipse" and (ellipse := _present(numbers, "cx", "cy", "rx", "ry")):
        box = ellipse_to_box(*ellipse, numbers.get("theta") or 0.0)
    elif name == "polygon":
        box = points_to_box(shape.get("all_points_x"), shape.get("all_points_y"))
    if box is None:
        return report.skip("regions without a usable shape", f"{place}: {short(shape)}")
    regions.append(Region(box, attributes if isinstance(attributes, dict) else {}, place))


def _present(numbers: dict[Any, float | None], *keys: str) -> tuple[float, float, float, float] | None:
    values = [numbers.get(key) for key in keys]
    if any(value is None for value in values):
        return None
    a, b, c, d = (value or 0.0 for value in values)
    return a, b, c, d


def _read_json_3(content: dict[str, Any], report: Report) -> dict[str, list[Region]]:
    names = _attribute_names(content.get("attribute"))
    views, files = content.get("view"), content["file"]
    addresses = {}
    for view_id, view in views.items() if isinstance(views, dict) else ():
        listed = view.get("fid_list") if isinstance(view, dict) else None
        entry = files.get(str(listed[0])) if isinstance(listed, list) and len(listed) == 1 else None
        if isinstance(entry, dict) and isinstance(entry.get("fname"), str) and entry.get("type", IMAGE) == IMAGE:
            addresses[view_id] = entry["fname"]
        else:
            report.skip("views that are not a single image", f"view {short(view_id)}")
    result: dict[str, list[Region]] = {address: [] for address in addresses.values()}
    for key, entry in content["metadata"].items():
        place = f"metadata {short(key)}"
        entry = entry if isinstance(entry, dict) else {}
        view_id = entry.get("vid")
        if not isinstance(view_id, str) or view_id not in addresses:
            report.skip("regions of views that are not a single image", place)
        else:
            _add_3(result[addresses[view_id]], entry.get("xy"), entry.get("av"), names, place, report)
    return result


def _read_csv_3(lines: list[str], file: Path, report: Report) -> dict[str, list[Region]]:
    result: dict[str, list[Region]] = {}
    header = next((line.removeprefix(CSV_3) for line in lines if line.startswith(CSV_3)), "")
    columns = [name.strip() for name in header.split(",")]
    if not {"file_list", "spatial_coordinates", "metadata"} <= set(columns):
        raise UserError(
            f"{file} has no line '{CSV_3}…' with file_list, spatial_coordinates and metadata; expected VIA 3"
        )
    given = [line.removeprefix(start) for start in ATTRIBUTES_3 for line in lines if line.startswith(start)]
    names = _attribute_names(parse_json(given[0], f"{file}: ATTRIBUTE")) if given else {}
    rows = _csv_rows("\n".join(line for line in lines if not line.startswith("#")), file)
    for number, row in enumerate(rows, start=1):
        if not any(row):
            continue
        values = dict(zip(columns, row, strict=False))
        place = f"region {number}"
        try:
            parsed = [
                parse_json(values.get(name, ""), name) for name in ("file_list", "spatial_coordinates", "metadata")
            ]
        except UserError as error:
            report.skip("regions that are not valid JSON", f"{place}: {error}")
            continue
        addresses, shape, attributes = parsed
        if not (isinstance(addresses, list) and len(addresses) == 1 and isinstance(addresses[0], str)):
            report.skip("regions of views that are not a single image", place)
            continue
        _add_3(result.setdefault(addresses[0], []), shape, attributes, names, place, report)
    return result


def _attribute_names(attributes: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and options of each attribute of version 3, by its id. Some exports have the names alone."""
    result: dict[str, tuple[str, dict[str, Any]]] = {}
    for attribute_id, entry in attributes.items() if isinstance(attributes, dict) else ():
        if isinstance(entry, str):
            result[attribute_id] = entry, {}
        elif isinstance(entry, dict) and isinstance(entry.get("aname"), str):
            options = entry.get("options") if entry.get("type") in CHOICES else None
            result[attribute_id] = entry["aname"], options if isinstance(options, dict) else {}
    return result


def _add_3(
    regions: list[Region],
    xy: Any,
    values: Any,
    names: dict[str, tuple[str, dict[str, Any]]],
    place: str,
    report: Report,
) -> None:
    """Add a region of version 3."""
    if xy == []:
        return report.skip("attributes of whole images", place)
    numbers = [as_number(value) for value in xy] if isinstance(xy, list) else []
    shape = SHAPES_3.get(xy[0]) if numbers and isinstance(xy[0], int) else None
    if shape in WITHOUT_AREA:
        return report.skip(f"regions of shape {shape}, which has no area", place)
    known = [number for number in numbers[1:] if number is not None]
    box = _box_of_shape_3(shape, known) if len(known) == len(numbers) - 1 else None
    if box is None:
        return report.skip("regions without a usable shape", f"{place}: {short(xy)}")
    attributes = {}
    for attribute_id, value in values.items() if isinstance(values, dict) else ():
        name, options = names.get(attribute_id, (attribute_id, {}))
        attributes[name] = options.get(value) if options and isinstance(value, str) else value
    regions.append(Region(box, attributes, place))
    return None


def _box_of_shape_3(shape: str | None, numbers: list[float]) -> Box | None:
    if shape == "rect" and len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    if shape == "circle" and len(numbers) == 3:
        return ellipse_to_box(numbers[0], numbers[1], numbers[2], numbers[2])
    if shape == "ellipse" and len(numbers) == 4:
        return ellipse_to_box(numbers[0], numbers[1], numbers[2], numbers[3])
    if shape == "polygon" and len(numbers) >= 6 and len(numbers) % 2 == 0:
        return points_to_box(numbers[::2], numbers[1::2])
    if shape == "extreme_rect" and len(numbers) == 8:  # four points on the boundary
        xs, ys = numbers[::2], numbers[1::2]
        return corners_to_box(min(xs), min(ys), max(xs), max(ys))
    return None


def _csv_rows(text: str, file: Path) -> Iterator[list[str]]:
    csv.field_size_limit(FIELD_LIMIT)
    try:
        yield from csv.reader(io.StringIO(text, newline=""), strict=False)
    except csv.Error as error:
        raise UserError(f"{file} is not valid CSV: {error}") from error
