"""Convert PASCAL VOC annotations (one XML file per image) to COCO ``instances`` tables.

VOC pixel coordinates are 1-based and both corners are inside the object: the box (1, 1, 1, 1) is one pixel,
``[0, 0, 1, 1]`` in COCO (VOC2012 development kit, section 2.3; the kit's evaluation code adds 1 to widths and heights
as well).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.image_finder import ImageFinder, annotated_size, images_folder, safe_name
from frcnn.data.formats.regions import Box, corners_to_box, points_to_box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import read_text, split_lines, to_size
from frcnn.data.image_files import files_with_suffix
from frcnn.data.json_values import as_number
from frcnn.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_FOLDERS = ("JPEGImages", "images", "data")  # beside the annotations: of VOC, of several tools, of FiftyOne


def voc_to_coco(
    source: Path,
    *,
    images: Path | None = None,
    classes: Sequence[str] = (),
    list_file: Path | None = None,
    zero_based: bool = False,
) -> Conversion:
    """Convert a folder of VOC files.

    Objects marked ``difficult`` become crowd regions: ignored in training and evaluation, as in VOC's own evaluation.

    Args:
        source: folder of XML files, or the dataset's folder with ``Annotations`` and ``JPEGImages``.
        images: folder with the images. Default: one of ``IMAGE_FOLDERS`` beside the annotations, or their own.
        classes: class names in order of category id, starting at 1. Default: the names found, sorted.
        list_file: text file whose lines begin with the stems of the files to convert, as ``ImageSets/Main/train.txt``.
        zero_based: pixels count from 0 and the maximum is outside of the object, as some exporters write.

    Raises:
        UserError: nothing can be converted, or an object's class is none of ``classes``.
    """
    report = Report()
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    files = _list_xml(annotations, list_file, report)
    parent = annotations.absolute().parent
    folder = images_folder(images, *(parent / name for name in IMAGE_FOLDERS), annotations)
    finder = ImageFinder(folder) if folder else None
    tables = CocoBuilder(source, report, classes)
    names: dict[str, Path] = {}
    for file in files:
        root = _parse(file, report)
        if root is None:
            continue
        name = _image_name(root, file, finder, report)
        if name is None:
            continue
        if name in names and finder is None:
            raise UserError(
                f"{names[name]} and {file} have the same <filename> {name!r}; give --images, so that each is matched "
                "to the image with its own name"
            )
        names[name] = file
        sides = root.findtext("size/width"), root.findtext("size/height")
        if finder:
            size = annotated_size(*sides, finder.folder / name, file.name, report)
            if size is None:
                continue
        else:
            size = to_size(*sides)
            if size is None:
                report.note("images without a size, which is then read from the image file", file.name)
        _add_objects(root, tables, tables.add_image(name, size, file.name), file.name, zero_based, report)
    if finder and list_file is None:
        for name in sorted(finder.images() - names.keys()):
            report.skip("images without an annotation file", name)
    return Conversion(tables.build(), report, folder)


def _list_xml(folder: Path, list_file: Path | None, report: Report) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder with VOC's XML files")
    found = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files_with_suffix(folder, ".xml")}
    if not found:
        raise UserError(f"{folder} has no XML files; expected the Annotations folder of a VOC dataset")
    if list_file is None:
        return list(found.values())
    files = []
    for line in filter(None, map(str.strip, split_lines(read_text(list_file)))):
        # Lists of a class have a second column, and names may contain spaces.
        file = next((found[stem] for stem in (line, _stem(line), line.rsplit(None, 1)[0]) if stem in found), None)
        if file is None:
            report.skip("lines of the list without an annotation file", line)
        else:
            files.append(file)
    return list(dict.fromkeys(files))


def _stem(line: str) -> str:
    return PurePosixPath(line.replace("\\", "/")).stem


def _parse(file: Path, report: Report) -> ElementTree.Element | None:
    try:
        content = file.read_bytes()
        if b"<!ENTITY" in content.replace(b"\0", b""):  # entity expansion is unbounded; the zeros are those of UTF-16
            reason = "defines XML entities"
        else:
            root = ElementTree.fromstring(content)
            if root.find("object") is not None or root.find("size") is not None or root.find("filename") is not None:
                return root
            reason = "has no <filename>, <size> or <object>"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: unknown encodings
        reason = f"is not valid XML: {error}"
    report.skip("files that are not VOC annotations", f"{file.name} {reason}")
    return None


def _image_name(root: ElementTree.Element, file: Path, finder: ImageFinder | None, report: Report) -> str | None:
    """The image with the XML file's own name, or else the one in ``<filename>``, which renaming and copying outdate."""
    written = (root.findtext("filename") or "").strip()
    if finder is None:
        name = safe_name(written)
        if not name:
            report.skip("annotations without a <filename> (give --images)", file.name)
        return name or None
    found = finder.find(written) if written else None
    if found is not None and PurePosixPath(found).stem == file.stem:
        return found
    own = finder.find_stem(file.stem)
    if own is None and found is None:
        report.skip("annotations whose image is missing", f"{file.name}: {written or 'no <filename>'}")
    elif own is not None:
        report.repair(
            "wrong or missing <filename>, matched by the annotation file's name", f"{file.name}: {written} -> {own}"
        )
    return own or found


def _add_objects(
    root: ElementTree.Element, tables: CocoBuilder, image_id: int, place: str, zero_based: bool, report: Report
) -> None:
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"{place} object {number}"
        box = _read_box(element, zero_based, where, report)
        if box is None:
            report.skip("objects without a usable <bndbox>", where)
            continue
        difficult = (element.findtext("difficult") or "").strip() == "1"
        if difficult:
            report.note("difficult objects, converted to crowd regions", where)
        tables.add_box(image_id, element.findtext("name"), box, where, crowd=difficult)


def _read_box(element: ElementTree.Element, zero_based: bool, place: str, report: Report) -> Box | None:
    numbers = [as_number(element.findtext(f"bndbox/{corner}")) for corner in CORNERS]
    x1, y1, x2, y2 = numbers
    if x1 is None or y1 is None or x2 is None or y2 is None:
        box = _polygon_box(element)
        if box is not None:
            report.repair("boxes derived from polygons", place)
            return box
        return None
    if x2 < x1 or y2 < y1:
        report.repair("boxes with swapped corners", place)
    x, y, width, height = corners_to_box(x1, y1, x2, y2)
    if zero_based:
        return x, y, width, height
    if x < 1 or y < 1:
        report.note("boxes that begin at pixel 0, although VOC counts from 1 (see --zero-based)", place)
    return x - 1, y - 1, width + 1, height + 1


def _polygon_box(element: ElementTree.Element) -> Box | None:
    """Box of ``<polygon><x1>…<y1>…<x2>…``, as some exporters write instead of ``<bndbox>``."""
    points = list(_polygon_points(element.find("polygon")))
    return points_to_box([x for x, _ in points], [y for _, y in points])


def _polygon_points(polygon: ElementTree.Element | None) -> Iterator[tuple[str, str]]:
    number = 1
    while polygon is not None:
        x, y = polygon.findtext(f"x{number}"), polygon.findtext(f"y{number}")
        if x is None or y is None:
            return
        yield x, y
        number += 1
