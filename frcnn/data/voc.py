"""PASCAL VOC's annotation files, one XML a picture, -> COCO's ``instances``.

VOC counts pixels from 1 and its corners belong to the object: the box 1, 1, 1, 1 is one pixel, COCO's ``[0, 0, 1, 1]``. (VOC2012
development kit, section 2.3; its evaluation code adds the one, too.)
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_to_coco(annotations: Path, classes: Sequence[str] = (), names: Sequence[str] | None = None) -> dict[str, Any]:
    """COCO tables of a folder of VOC files.

    Args:
        annotations: folder of XML files.
        classes: names in the order of the category ids, from 1; none given: those found, sorted.
        names: stems of the files to take, as a line of ``ImageSets/Main/train.txt`` has them; None: all.

    Objects marked as difficult become crowd regions: neither trained on nor counted, as VOC's evaluation leaves them out.

    Raises:
        UserError: the folder has no XML file, a named one is missing, or a file is not VOC's: file, element and value.
    """
    files = sorted(annotations.glob("*.xml")) if names is None else [annotations / f"{name}.xml" for name in names]
    if not files:
        raise UserError(f"{annotations} has no XML files; expected VOC's folder Annotations")
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for file in files:
        root = _parse(file)
        size = root.find("size")
        if size is None:
            raise UserError(f"{file}: there is no <size>; expected a VOC annotation")
        image = {"id": len(images) + 1, "file_name": _text(root, "filename", file)}
        images.append(
            image | {"width": int(_number(size, "width", file)), "height": int(_number(size, "height", file))}
        )
        boxes += [_box(found, image["id"], file) for found in root.iter("object")]
    found = sorted({box["name"] for box in boxes})
    if unknown := [name for name in found if classes and name not in classes]:
        raise UserError(
            f"{annotations}: class {unknown[0]!r} is none of {', '.join(classes)}; name it too, or leave the classes out"
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
        if b"<!ENTITY" in text:  # expands without bound
            raise UserError(f"{file}: entities are defined in it; expected a plain VOC annotation")
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
