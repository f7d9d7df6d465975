"""Convert Labelme annotations (one JSON file per image) to COCO ``instances`` tables.

A file has ``shapes`` with a ``label``, ``points`` in pixels and a ``shape_type``; shapes with the same label and
``group_id`` are parts of one object. The image is the file ``imagePath``, and often also embedded in ``imageData``.
(Labelme, ``labelme/label_file.py`` and ``examples/instance_segmentation/labelme2coco.py``.)
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.image_finder import (
    ImageFinder,
    address_parts,
    annotated_size,
    images_folder,
    read_size,
)
from frcnn.data.formats.regions import Box, corners_to_box, ellipse_to_box, points_to_box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import read_json, short
from frcnn.data.image_files import files_with_suffix, is_image_name
from frcnn.data.json_values import as_number
from frcnn.errors import UserError

WITHOUT_AREA = ("point", "points", "line", "linestrip")
AREAS = ("rectangle", "oriented_rectangle", "polygon", "mask")  # whose box is that of their points


def labelme_to_coco(
    source: Path, *, images: Path | None = None, classes: Sequence[str] = (), extract_images: bool = False
) -> Conversion:
    """Convert Labelme files.

    Args:
        source: a folder, searched with its subfolders, or a single file.
        images: folder with the images; default: that of the JSON files.
        classes: class names in order of category id, starting at 1. Default: the names found, sorted.
        extract_images: write embedded images that have no file into the images folder.

    Raises:
        UserError: nothing can be converted, or an object's class is none of ``classes``.
    """
    report = Report()
    root = source.parent if source.is_file() else source
    files = [source] if source.is_file() else files_with_suffix(source, ".json")
    if not files:
        raise UserError(f"{source} has no JSON files; give the folder with Labelme's annotations")
    folder = images_folder(images, root) or root
    finder = ImageFinder(folder)
    tables = CocoBuilder(source, report, classes)
    for file in files:
        place = file.relative_to(root).as_posix()
        entry = _read_entry(file, place, report)
        if entry is None:
            continue
        name = _find_image(entry, place, finder) or (_extract(entry, place, folder, report) if extract_images else None)
        if name is None:
            embedded = " (it is embedded: use --extract-images)" if entry.get("imageData") else ""
            report.skip("annotations whose image is missing", f"{place}: {short(entry.get('imagePath'))}{embedded}")
            continue
        size = annotated_size(entry.get("imageWidth"), entry.get("imageHeight"), folder / name, place, report)
        if size is None:
            continue
        image_id = tables.add_image(name, size, place)
        for label, box, where in _objects(entry["shapes"], place, report):
            tables.add_box(image_id, label, box, where)
    return Conversion(tables.build(), report, folder)


def _read_entry(file: Path, place: str, report: Report) -> dict[str, Any] | None:
    try:
        entry = read_json(file)
    except UserError as error:
        report.skip("files that are not Labelme annotations", str(error))
        return None
    if isinstance(entry, dict) and isinstance(entry.get("shapes"), list):
        return entry
    report.skip("files that are not Labelme annotations", f"{place} has no list 'shapes'")
    return None


def _find_image(entry: dict[str, Any], place: str, finder: ImageFinder) -> str | None:
    """The image ``imagePath``, which is relative to the JSON file, or the one with the JSON file's name."""
    written = entry.get("imagePath")
    found = None
    if isinstance(written, str):
        beside = PurePosixPath(place).parent / "/".join(address_parts(written))
        found = finder.find(str(beside)) or finder.find(written)
    return found or finder.find_stem(PurePosixPath(place).stem)


def _extract(entry: dict[str, Any], place: str, folder: Path, report: Report) -> str | None:
    """Write the embedded image under the JSON file's name, with the suffix of ``imagePath``; None if it is unusable."""
    data, written = entry.get("imageData"), entry.get("imagePath")
    if not isinstance(data, str) or not data:
        return None
    suffix = Path(address_parts(written)[-1]).suffix if isinstance(written, str) and address_parts(written) else ""
    target = (folder / place).with_suffix(suffix if is_image_name(f"image{suffix}") else ".png")
    if target.exists():
        return None
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        report.skip("embedded images that cannot be decoded", place)
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    if read_size(target, report) is None:
        target.unlink()
        return None
    report.note("embedded images written to files", target.name)
    return target.relative_to(folder).as_posix()


def _objects(shapes: list[Any], place: str, report: Report) -> list[tuple[Any, Box, str]]:
    """Label, box and place of each object; shapes of one label and group are joined."""
    objects: list[tuple[Any, Box, str]] = []
    groups: dict[tuple[Any, Any], int] = {}
    for number, shape in enumerate(shapes, start=1):
        where = f"{place} shape {number}"
        if not isinstance(shape, dict):
            report.skip("shapes that are not JSON objects", where)
            continue
        kind = shape.get("shape_type") or "polygon"  # older versions leave it out
        box = _shape_to_box(kind, shape.get("points"))
        if kind in WITHOUT_AREA:
            report.skip(f"shapes of type {kind}, which has no area", where)
        elif box is None:
            report.skip("shapes without usable points", f"{where}: {short(kind)} {short(shape.get('points'))}")
        else:
            label, group = shape.get("label"), shape.get("group_id")
            if isinstance(label, str) and isinstance(group, int) and not isinstance(group, bool):
                if (label, group) in groups:
                    report.repair("shapes with the label and group of another, joined to one object", where)
                    index = groups[label, group]
                    objects[index] = (label, _union(objects[index][1], box), objects[index][2])
                    continue
                groups[label, group] = len(objects)
            objects.append((label, box, where))
    return objects


def _shape_to_box(kind: Any, points: Any) -> Box | None:
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if kind in AREAS and len(points) >= (3 if kind == "polygon" else 2):
        return points_to_box(xs, ys)
    numbers = [as_number(value) for value in (*xs, *ys)]
    if kind == "circle" and len(points) == 2 and all(number is not None for number in numbers):
        center_x, edge_x, center_y, edge_y = (number or 0.0 for number in numbers)
        radius = math.hypot(edge_x - center_x, edge_y - center_y)
        return ellipse_to_box(center_x, center_y, radius, radius)
    return None


def _union(one: Box, other: Box) -> Box:
    return corners_to_box(
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[0] + one[2], other[0] + other[2]),
        max(one[1] + one[3], other[1] + other[3]),
    )
