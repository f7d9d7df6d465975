"""Convert the inputs of SageMaker's own detection algorithms to COCO ``instances`` tables.

* Object Detection (MXNet): a folder with one JSON file per image, with ``file``, ``image_size``, ``annotations`` of
  ``class_id``, ``left``, ``top``, ``width``, ``height``, and ``categories``.
* Object Detection - TensorFlow (JumpStart): ``annotations.json`` with ``images`` and ``annotations``, whose ``bbox`` is
  ``[xmin, ymin, xmax, ymax]``, beside a folder ``images``. There are no class names.

(SageMaker developer guide, "Input/Output Interface" of both algorithms.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.image_finder import ImageFinder, annotated_size, images_folder
from frcnn.data.formats.regions import corners_to_box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import clean_name, read_json, short
from frcnn.data.image_files import files_with_suffix
from frcnn.data.json_values import as_integer, as_number
from frcnn.errors import UserError

SIDES = ("left", "top", "width", "height")
JUMPSTART_FILE = "annotations.json"


def sagemaker_to_coco(source: Path, *, images: Path | None = None, classes: Sequence[str] = ()) -> Conversion:
    """Convert a folder of the built-in algorithm, or JumpStart's ``annotations.json``. Category ids are the class ids.

    Args:
        source: folder of JSON files, ``annotations.json``, or the folder with it.
        images: folder with the images. Default: ``train`` for ``train_annotation``, ``images`` beside
            ``annotations.json``, or the folder itself.
        classes: names of the classes 0, 1, …; default: those of the files, or ``class 0`` and so on.

    Raises:
        UserError: nothing can be converted.
    """
    file = source / JUMPSTART_FILE if (source / JUMPSTART_FILE).is_file() else source
    report = Report()
    tables = CocoBuilder(source, report)
    for class_id, name in enumerate(classes):
        tables.declare(name, class_id)
    names = dict(enumerate(classes))
    if file.is_file():
        content = read_json(file)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            folder = _folder(images, file.parent / "images", file.parent)
            _add_jumpstart(content, file, tables, ImageFinder(folder), names, report)
            return Conversion(tables.build(), report, folder)
        files = [file]
    elif source.is_dir():
        files = files_with_suffix(source, ".json")
    else:
        raise UserError(f"{source} does not exist; give a folder of JSON files, or annotations.json")
    if not files:
        raise UserError(f"{source} has no JSON files; expected one per image, or annotations.json")
    root = (source if source.is_dir() else source.parent).absolute()
    folder = _folder(images, root.with_name(root.name.removesuffix("_annotation")), root)
    finder = ImageFinder(folder)
    for file in files:
        _add_file(file, tables, finder, names, report)
    return Conversion(tables.build(), report, folder)


def _folder(given: Path | None, *candidates: Path) -> Path:
    folder = images_folder(given, *candidates)
    if folder is None:
        looked = ", ".join(map(str, candidates))
        raise UserError(f"no images in {looked}; give the folder with the images with --images")
    return folder


def _add_file(file: Path, tables: CocoBuilder, finder: ImageFinder, names: dict[int, str], report: Report) -> None:
    """Add the image of one file of the built-in algorithm."""
    try:
        entry = read_json(file)
    except UserError as error:
        return report.skip("files that are not annotations of the built-in algorithm", str(error))
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        return report.skip("files that are not annotations of the built-in algorithm", f"{file.name} has no 'file'")
    name = finder.find(entry["file"])
    if name is None:
        return report.skip("annotations whose image is missing", f"{file.name}: {entry['file']}")
    sizes = next(iter(_objects(entry.get("image_size"))), {})
    size = annotated_size(sizes.get("width"), sizes.get("height"), finder.folder / name, file.name, report)
    if size is None:
        return None
    own = {as_integer(category.get("class_id")): category.get("name") for category in _objects(entry.get("categories"))}
    for class_id, value in own.items():
        if class_id is not None and clean_name(value) and class_id not in names:
            names[class_id] = clean_name(value)
            tables.declare(names[class_id], class_id, file.name)
    image_id = tables.add_image(name, size, file.name)
    if not isinstance(entry.get("annotations"), list):
        return report.skip("files without a list 'annotations', taken as images without objects", file.name)
    for number, box in enumerate(entry["annotations"], start=1):
        place = f"{file.name} annotation {number}"
        sides = [as_number(box.get(side)) for side in SIDES] if isinstance(box, dict) else []
        class_id = as_integer(box.get("class_id")) if isinstance(box, dict) else None
        if class_id is None or len(sides) < 4 or any(side is None for side in sides):
            report.skip("annotations without class_id, left, top, width and height", f"{place}: {short(box)}")
            continue
        left, top, width, height = (side or 0.0 for side in sides)
        class_name = clean_name(own.get(class_id)) or _class_name(class_id, names, tables, report)
        tables.add_box(image_id, class_name, (left, top, width, height), place)
    return None


def _add_jumpstart(
    content: dict[str, Any], file: Path, tables: CocoBuilder, finder: ImageFinder, names: dict[int, str], report: Report
) -> None:
    image_ids: dict[int, int] = {}
    for number, image in enumerate(content["images"], start=1):
        place = f"{file.name} image {number}"
        image_id = as_integer(image.get("id")) if isinstance(image, dict) else None
        if image_id is None or not isinstance(image.get("file_name"), str):
            report.skip("images without id and file_name", f"{place}: {short(image)}")
            continue
        name = finder.find(image["file_name"])
        if name is None:
            report.skip("images whose file is missing", f"{place}: {image['file_name']}")
            continue
        size = annotated_size(image.get("width"), image.get("height"), finder.folder / name, place, report)
        if size is not None:
            image_ids[image_id] = tables.add_image(name, size, place)
    boxes = content.get("annotations")
    if not isinstance(boxes, list):
        raise UserError(f"{file} has no list 'annotations'; expected JumpStart's annotations.json")
    _check_corners(boxes, file)
    for number, box in enumerate(boxes, start=1):
        place = f"{file.name} annotation {number}"
        corners = _corners(box)
        class_id = as_integer(box.get("category_id")) if isinstance(box, dict) else None
        image_id = as_integer(box.get("image_id")) if isinstance(box, dict) else None
        if class_id is None or image_id is None or corners is None:
            report.skip("annotations without image_id, category_id and bbox", f"{place}: {short(box)}")
        elif image_id not in image_ids:
            report.skip("annotations of images that are not listed or were skipped", f"{place}: image {image_id}")
        else:
            if corners[2] < corners[0] or corners[3] < corners[1]:
                report.repair("boxes with swapped corners", place)
            class_name = _class_name(class_id, names, tables, report)
            tables.add_box(image_ids[image_id], class_name, corners_to_box(*corners), place)


def _check_corners(boxes: list[Any], file: Path) -> None:
    """Refuse COCO's x, y, width, height: as corners, many of such boxes are the wrong way round."""
    corners = [box for box in map(_corners, boxes) if box is not None]
    reversed_ones = sum(x2 < x1 or y2 < y1 for x1, y1, x2, y2 in corners)
    if len(corners) >= 4 and reversed_ones > len(corners) / 4:
        raise UserError(
            f"{file}: in {reversed_ones} of {len(corners)} boxes the second corner is left of or above the first; the "
            "boxes seem to be x, y, width, height: use this file as it is, or 'frcnn convert coco-json'"
        )


def _corners(box: Any) -> tuple[float, float, float, float] | None:
    values = box.get("bbox") if isinstance(box, dict) else None
    numbers = [as_number(value) for value in values] if isinstance(values, list) else []
    if len(numbers) != 4 or any(number is None for number in numbers):
        return None
    x1, y1, x2, y2 = (number or 0.0 for number in numbers)
    return x1, y1, x2, y2


def _class_name(class_id: int, names: dict[int, str], tables: CocoBuilder, report: Report) -> str:
    if class_id not in names:
        names[class_id] = f"class {class_id}"
        report.note("classes without a name, named by their id (give names with --classes)", str(class_id))
        tables.declare(names[class_id], class_id)
    return names[class_id]


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
