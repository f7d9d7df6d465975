"""COCO ``instances`` tables built image by image and box by box; what cannot be used goes into the report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.data.annotations import EDGE_TOLERANCE
from frcnn.data.formats.regions import Box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import clean_name, short
from frcnn.data.problems import first_few
from frcnn.errors import UserError

LARGEST_COORDINATE = 1e9  # pixels; larger ones are damage, and their sums may overflow
DECIMALS = 4  # of coordinates in the tables


class Conversion(NamedTuple):
    """Result of a converter.

    Attributes:
        tables: ``images``, ``annotations`` and ``categories``.
        report: what was skipped or repaired.
        images: folder that ``file_name`` starts from; None if the images were not looked for.
    """

    tables: dict[str, Any]
    report: Report
    images: Path | None


class CocoBuilder:
    """Collects images and boxes.

    Args:
        source: what is converted, for messages.
        report: receives what is skipped or repaired.
        classes: names in order of category id, starting at 1; no others are accepted. Empty: those found, sorted.
    """

    def __init__(self, source: Path | str, report: Report, classes: Sequence[str] = ()) -> None:
        self._source = source
        self._report = report
        self._images: dict[str, dict[str, Any]] = {}
        self._sizes: list[tuple[int, int] | None] = []
        self._boxes: list[dict[str, Any]] = []
        self._seen: set[tuple[Any, ...]] = set()
        self._declared: dict[str, int] = {}
        self._only_declared = bool(classes)
        if len(set(classes)) < len(classes):
            raise UserError(f"the classes {', '.join(classes)} contain a name twice; give each class once")
        for class_id, name in enumerate(classes, start=1):
            self.declare(name, class_id)

    def declare(self, name: str, class_id: int, place: str = "") -> None:
        """Add a class with its id. A name has one id; if ids and names of two files disagree, the name decides."""
        if name in self._declared:
            if self._declared[name] != class_id:
                self._report.repair("classes with different ids in different places, matched by name", place)
            return
        if class_id in self._declared.values():
            self._report.repair("ids of several classes, of which all but one got a new id", place or repr(name))
            class_id = max(self._declared.values()) + 1
        self._declared[name] = class_id

    def add_image(self, file_name: str, size: tuple[int, int] | None, place: str, **fields: Any) -> int:
        """Add an image and return its id. An image that exists already is not added twice: it gets more boxes.

        Args:
            file_name: path below the images folder.
            size: width and height in pixels; None if unknown.
            place: where the image is listed.
            fields: more columns of the image table.
        """
        if file_name in self._images:
            self._report.repair("images listed more than once, merged", f"{place}: {file_name}")
            return self._images[file_name]["id"]
        sides = {"width": size[0], "height": size[1]} if size else {}
        self._images[file_name] = {"id": len(self._images) + 1, "file_name": file_name, **sides, **fields}
        self._sizes.append(size)
        return len(self._images)

    def add_box(
        self, image_id: int, name: Any, box: Box, place: str, *, crowd: bool = False, area: float | None = None
    ) -> None:
        """Add a box, or report why it cannot be used.

        Args:
            image_id: of :meth:`add_image`.
            name: class name; anything but text is reported.
            box: x, y, width, height in pixels.
            place: where the box is in the source.
            crowd: a region that training and evaluation ignore.
            area: of the object in square pixels, if it is not the box's.
        """
        class_name = clean_name(name)
        if not class_name:
            return self._report.skip("objects without a class name", place)
        if self._only_declared and class_name not in self._declared:
            raise UserError(
                f"{place}: class {class_name!r} is not one of {first_few(self._declared)}; "
                "add it to --classes, or omit them"
            )
        if not all(math.isfinite(number) and abs(number) < LARGEST_COORDINATE for number in box):
            return self._report.skip("boxes with a coordinate that is not a usable number", place)
        x, y, width, height = (round(number, DECIMALS) for number in box)
        if width <= 0 or height <= 0:
            return self._report.skip("boxes without width or height", place)
        if size := self._sizes[image_id - 1]:
            # Without clipping, readers that guess the format of boxes could take those of this file for corners.
            inside = _clip(x, y, width, height, size)
            if inside[2] <= 0 or inside[3] <= 0:
                return self._report.skip("boxes outside their image", place)
            if max(abs(new - old) for new, old in zip(inside, (x, y, width, height), strict=True)) > EDGE_TOLERANCE:
                self._report.repair("boxes that extend over the image's edge, clipped", place)
            x, y, width, height = inside
        key = (image_id, class_name, x, y, width, height, crowd)
        if key in self._seen:
            return self._report.skip("objects listed twice (same image, class and box)", place)
        self._seen.add(key)
        if class_name != name:
            self._report.repair("class names with control characters or surrounding space", f"{place}: {short(name)}")
        if area is None or not 0 < area < LARGEST_COORDINATE**2:
            area = width * height
        self._boxes.append(
            {
                "name": class_name,
                "image_id": image_id,
                "bbox": [x, y, width, height],
                "area": area,
                "iscrowd": int(crowd),
            }
        )

    def build(self) -> dict[str, Any]:
        """The tables, with annotations numbered from 1.

        Raises:
            UserError: there is no image, or objects exist but none can be used.
        """
        if not self._images or (not self._boxes and self._report.skipped):
            what = "objects" if self._images else "images"
            raise UserError(f"{self._source}: no usable {what}; {'; '.join(self._report.lines()) or 'none are listed'}")
        ids = dict(self._declared)
        for name in sorted({box["name"] for box in self._boxes} - ids.keys()):
            ids[name] = max(ids.values(), default=0) + 1
        return {
            "images": list(self._images.values()),
            "annotations": [
                {"id": number, "category_id": ids[box.pop("name")], **box}
                for number, box in enumerate(self._boxes, start=1)
            ],
            "categories": [
                {"id": class_id, "name": name} for name, class_id in sorted(ids.items(), key=lambda item: item[1])
            ],
        }


def _clip(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Part of a box inside an image of the given width and height; without area if there is none."""
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + width, float(size[0])), min(y + height, float(size[1]))
    return x1, y1, round(x2 - x1, DECIMALS), round(y2 - y1, DECIMALS)


def to_json(tables: dict[str, Any]) -> str:
    """The tables as JSON text; strict, without NaN."""
    return json.dumps(tables, allow_nan=False) + "\n"
