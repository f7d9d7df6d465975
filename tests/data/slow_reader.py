"""An independent reader of COCO annotation files: plain Python, one entry after another, no import from frcnn.

It follows ``docs/data.md`` and is the oracle of the mutation tests. It says which boxes are used, or that the file is
refused.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any


class Refused(Exception):
    """The file cannot be used."""


def integer(value: Any) -> int | None:
    """``3``, ``3.0``, ``"3"``, ``"3.0"`` and ``true`` are integers, if they fit 64 bits."""
    if isinstance(value, str):
        text = value.strip()
        sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
        whole, point, decimals = digits.partition(".")
        if not whole or len(whole) > 19 or not (whole + decimals).isascii() or not (whole + decimals).isdigit():
            return None
        if point and decimals.strip("0"):
            return None
        value = int(sign + whole)
    if isinstance(value, float):
        if not math.isfinite(value) or value != math.floor(value):
            return None
        value = int(value)
    if not isinstance(value, int) or not -(2**63) <= value <= 2**63 - 1:
        return None
    return int(value)


def number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        if not text.isascii() or "_" in text:
            return None
        try:
            return float(text)
        except ValueError:
            return None
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return None


def single(value: float) -> float:
    """Rounded to 32 bits, as boxes are stored."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def used_boxes(tree: Any) -> dict[int, list[tuple[str, bool, tuple[float, float, float, float]]]]:
    """Class name, crowd flag and clipped corners of every used box, by image id, in the order of annotation ids.

    Raises:
        Refused: the file as a whole cannot be used.
    """
    if not isinstance(tree, dict) or not all(
        isinstance(tree.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise Refused("tables")
    images, merged = read_images(tree["images"])
    entries = [read_annotation(entry) for entry in tree["annotations"]]
    classes = read_classes(tree["categories"], {entry["category"] for entry in entries if entry})
    ids = [entry["id"] for entry in entries if entry]
    numbered = None in ids or len(set(ids)) < len(ids)
    candidates = []
    for position, entry in enumerate(entries):
        if entry is None:
            continue
        image_id = merged.get(entry["image"], entry["image"])
        if image_id in images and entry["category"] in classes:
            order = position + 1 if numbered else entry["id"]
            candidates.append((order, image_id, classes[entry["category"]], entry))
    check_format([(images[image_id], entry) for _, image_id, _, entry in candidates])
    found: dict[int, list[Any]] = {image_id: [] for image_id in images}
    seen: set[Any] = set()
    for order, image_id, name, entry in candidates:
        corners = clip(entry["box"], images[image_id])
        if corners is None:
            continue
        key = (image_id, entry["category"], entry["crowd"], entry["box"])
        if image_id in merged.values():
            if key in seen:
                continue
            seen.add(key)
        found[image_id].append((order, (name, entry["crowd"], corners)))
    return {image_id: [box for _, box in sorted(boxes, key=lambda item: item[0])] for image_id, boxes in found.items()}


def read_images(entries: list[Any]) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """Sizes by image id, and kept ids by the ids of entries that name the same file; no image file exists."""
    named: dict[int, str] = {}
    sizes: dict[int, list[tuple[int, int]]] = {}
    for entry in entries:
        image_id = integer(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if image_id is None or image_id < 0 or not isinstance(name, str) or not name:
            raise Refused("image entry")
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or "\0" in name or any(0xD800 <= ord(c) < 0xE000 for c in name):
            raise Refused("file name")
        if len(parts[0]) > 1 and parts[0][1] == ":":
            raise Refused("drive")
        normal = "/".join(part for part in parts if part not in ("", "."))
        if named.setdefault(image_id, normal) != normal:
            raise Refused("image id of two files")
        width, height = integer(entry.get("width")), integer(entry.get("height"))
        if width is not None and height is not None and 0 < width < 2**31 and 0 < height < 2**31:
            sizes.setdefault(image_id, []).append((width, height))
    if not named:
        raise Refused("no images")
    first = {name: min(other for other in named if named[other] == name) for name in named.values()}
    merged = {image_id: first[name] for image_id, name in named.items() if first[name] != image_id}
    kept: dict[int, tuple[int, int]] = {}
    for name, image_id in first.items():
        all_sizes = {size for other in named if named[other] == name for size in sizes.get(other, [])}
        if len(all_sizes) != 1:
            raise Refused("no size, or several")
        (kept[image_id],) = all_sizes
    return kept, merged


def read_classes(entries: list[Any], used: set[int]) -> dict[int, str]:
    """Class names by category id, without groups of other categories."""
    names: dict[int, str] = {}
    parents: dict[int, Any] = {}
    for entry in entries:
        category_id = integer(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        clean = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in name) if isinstance(name, str) else ""
        clean = clean.replace("\ufeff", "").replace("\u200b", "").strip()
        if category_id is None or not clean or names.setdefault(category_id, clean) != clean:
            raise Refused("category")
        parents[category_id] = entry.get("supercategory")
    for category_id, name in list(names.items()):
        others = [parent for other, parent in parents.items() if other != category_id]
        if category_id not in used and name in others:
            del names[category_id]
    if not names:
        raise Refused("no categories")
    taken: set[str] = set()
    for category_id in sorted(names):
        name, count = names[category_id], 1
        while name in taken:
            count += 1
            name = f"{names[category_id]} ({count})"
        taken.add(name)
        names[category_id] = name
    return names


def read_annotation(entry: Any) -> dict[str, Any] | None:
    if not isinstance(entry, dict):
        return None
    image_id, category_id = integer(entry.get("image_id")), integer(entry.get("category_id"))
    crowd = integer(entry.get("iscrowd") or 0)
    if image_id is None or category_id is None or crowd is None:
        return None
    box, derived = entry.get("bbox"), False
    if box is None or box == []:
        box, derived = polygon_box(entry.get("segmentation")), True
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = tuple(number(value) for value in box)
    if None in numbers:
        return None
    return {
        "id": integer(entry.get("id")),
        "image": image_id,
        "category": category_id,
        "crowd": crowd != 0,
        "box": numbers,
        "derived": derived,
    }


def polygon_box(polygons: Any) -> list[float] | None:
    if not isinstance(polygons, list):
        return None  # the tests make no masks here
    if polygons and not any(isinstance(polygon, list) for polygon in polygons):
        polygons = [polygons]
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            return None
        values = [number(value) for value in polygon]
        if None in values:
            return None
        xs += values[::2]
        ys += values[1::2]
    if len(xs) < 3 or not all(map(math.isfinite, xs + ys)):
        return None
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return box if box[2] > 0 and box[3] > 0 else None


def check_format(candidates: list[tuple[tuple[int, int], dict[str, Any]]]) -> None:
    """Refuse a file whose boxes look like corners or like fractions of the image's size."""
    total = normalized = corners = both = 0
    for (width, height), entry in candidates:
        x, y, w, h = entry["box"]
        if entry["derived"] or not all(map(math.isfinite, (x, y, w, h))):
            continue
        total += 1
        normalized += all(0 <= value <= 1 for value in (x, y, w, h))
        overrun = x + w > width + 1 or y + h > height + 1
        fits = w > x >= -1 and h > y >= -1 and w <= width + 1 and h <= height + 1
        corners += fits
        both += overrun and fits
    if total and (
        Fraction(normalized, total) > 0.95
        or Fraction(both, total) > 0.5
        or (Fraction(both, total) > 0.2 and Fraction(corners, total) > 0.95)
    ):
        raise Refused("box format")


def clip(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    x, y, width, height = box
    if not all(map(math.isfinite, box)) or width <= 0 or height <= 0:
        return None
    x2, y2 = x + width, y + height
    if single(x2) <= single(x) or single(y2) <= single(y):
        return None
    corners = tuple(
        single(min(max(value, 0.0), limit)) for value, limit in zip((x, y, x2, y2), (*size, *size), strict=True)
    )
    return corners if corners[2] > corners[0] and corners[3] > corners[1] else None
