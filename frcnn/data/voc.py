"""Convert PASCAL VOC annotations (one XML file per image) to COCO ``instances`` tables.

VOC pixel coordinates are 1-based and both corners are inside the object: the box (1, 1, 1, 1) is one pixel, ``[0, 0,
1, 1]`` in COCO (VOC2012 development kit, section 2.3; the kit's evaluation code adds 1 to widths and heights as
well).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_to_coco(annotations: Path, classes: Sequence[str] = (), names: Sequence[str] | None = None) -> dict[str, Any]:
    """Convert a folder of VOC files to COCO tables.

    Objects marked ``difficult`` become crowd regions: ignored in training and evaluation, as in VOC's own evaluation.

    Args:
        annotations: folder of XML files.
        classes: class names in order of category id, starting at 1. Default: the names found, sorted.
        names: stems of the files to convert, as listed in ``ImageSets/Main/train.txt``. None: all files.

    Raises:
        UserError: the folder has no XML file, a listed file is missing, or a file is not a VOC annotation.
    """
    files = sorted(annotations.glob("*.xml")) if names is None else [annotations / f"{name}.xml" for name in names]
    if not files:
        raise UserError(f"{annotations} has no XML files; expected the Annotations folder of a VOC dataset")
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for file in files:
        root = _parse(file)
        size = root.find("size")
        if size is None:
            raise UserError(f"{file}: <size> is missing; expected a VOC annotation")
        image = {"id": len(images) + 1, "file_name": _text(root, "filename", file)}
        images.append(
            image | {"width": int(_number(size, "width", file)), "height": int(_number(size, "height", file))}
        )
        boxes += [_box(found, image["id"], file) for found in root.iter("object")]
    found = sorted({box["name"] for box in boxes})
    if unknown := [name for name in found if classes and name not in classes]:
        raise UserError(
            f"{annotations}: class {unknown[0]!r} is not one of {', '.join(classes)}; "
            "add it to the classes, or omit them"
        )
    ids = {name: number for number, name in enumerate(classes or found, start=1)}
    return {
        "images": images,
        "annotations": [
            {"id": number, "category_id": ids[box.pop("name")], **box} for number, box in enumerate(boxes, start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def _box(element: ElementTree.Element, image_id: Any, file: Path) -> dict[str, Any]:
    corners = element.find("bndbox")
    if corners is None:
        raise UserError(f"{file}: an <object> has no <bndbox>; expected a VOC annotation")
    x1, y1, x2, y2 = (_number(corners, name, file) for name in CORNERS)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    crowd = int(element.findtext("difficult", "0").strip() == "1")
    bbox = [x1 - 1, y1 - 1, width, height]
    return {
        "name": _text(element, "name", file),
        "image_id": image_id,
        "bbox": bbox,
        "area": width * height,
        "iscrowd": crowd,
    }


def _parse(file: Path) -> ElementTree.Element:
    try:
        text = file.read_bytes()
        if b"<!ENTITY" in text:  # entity expansion is unbounded
            raise UserError(f"{file} defines XML entities; expected a plain VOC annotation")
        return ElementTree.fromstring(text)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); expected a VOC annotation") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is not valid XML: {error}") from error


def _text(element: ElementTree.Element, name: str, file: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise UserError(f"{file}: <{name}> of <{element.tag}> is missing or empty; expected a VOC annotation")
    return text


def _number(element: ElementTree.Element, name: str, file: Path) -> float:
    text = _text(element, name, file)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{file}: <{name}> is {text!r}; expected a number") from None
