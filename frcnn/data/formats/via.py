"""Convert JSON and CSV files of the VGG Image Annotator (VIA), versions 1 to 3, to COCO ``instances`` tables.

VIA's regions have attributes with free names; one of them is the class. VIA stores no image sizes. :mod:`.via_regions`
reads the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.image_finder import ImageFinder, images_folder, read_size
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import clean_name, short
from frcnn.data.formats.via_regions import Region, read_regions
from frcnn.data.problems import first_few
from frcnn.errors import UserError


def via_to_coco(
    source: Path, *, images: Path | None = None, classes: Sequence[str] = (), attribute: str | None = None
) -> Conversion:
    """Convert a VIA file.

    Args:
        source: JSON or CSV export, or a saved project.
        images: folder with the images; default: that of the file.
        classes: class names in order of category id, starting at 1. Default: the names found, sorted.
        attribute: name of the region attribute that is the class. Default: the only one there is. With none at
            all and a single class in ``classes``, all regions are of this class.

    Raises:
        UserError: nothing can be converted, several attributes to choose from, or a class that is none of ``classes``.
    """
    report = Report()
    files = read_regions(source, report)
    attribute = _choose_attribute(files, attribute, classes, source)
    folder = images_folder(images, source.parent) or source.parent
    finder = ImageFinder(folder)
    tables = CocoBuilder(source, report, classes)
    for address, regions in files.items():
        name = finder.find(address)
        if name is None:
            report.skip(f"images that are not in {folder} (see --images)", address)
            continue
        size = read_size(folder / name, report)
        if size is None:
            continue
        image_id = tables.add_image(name, size, address)
        for region in regions:
            value = region.attributes.get(attribute or "")
            label = classes[0] if attribute is None else _class_of(value)
            if label is None:
                kind = f"regions without a single value of the attribute {short(attribute)}"
                report.skip(kind, f"{region.place}: {short(value)}")
            else:
                tables.add_box(image_id, label, region.box, region.place)
    return Conversion(tables.build(), report, folder)


def _choose_attribute(
    files: dict[str, list[Region]], wanted: str | None, classes: Sequence[str], source: Path
) -> str | None:
    """Name of the attribute that is the class; None if no region has any and there is only one class."""
    counts = Counter(name for regions in files.values() for region in regions for name in region.attributes)
    found = first_few(map(short, sorted(counts))) or "none"
    if wanted is not None:
        if wanted not in counts:
            raise UserError(f"{source}: no region has the attribute {wanted!r}; the attributes are: {found}")
        return wanted
    if len(counts) == 1:
        return next(iter(counts))
    if not counts and len(classes) == 1:
        return None
    if not counts:
        raise UserError(f"{source}: the regions have no attributes; give the name of their only class with --classes")
    raise UserError(f"{source}: choose the attribute that is the class with --attribute: {found}")


def _class_of(value: Any) -> str | None:
    """Class name of an attribute value: text, or a group of checkboxes of which one is set."""
    if isinstance(value, dict):
        chosen = [name for name, state in value.items() if state is True or state == "true"]
        value = chosen[0] if len(chosen) == 1 else None
    return clean_name(value) or None
