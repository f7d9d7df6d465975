"""Convert augmented manifests of SageMaker Ground Truth to COCO ``instances`` tables.

Each line is a JSON object: ``source-ref`` is the image's address; a label attribute holds ``image_size`` and
``annotations`` with ``class_id``, ``left``, ``top``, ``width`` and ``height`` in absolute pixels, which is COCO's
``bbox``; its ``…-metadata`` holds ``class-map``, the names of the classes in that line. An adjustment job adds a second
label attribute, a verification job one with a verdict. (SageMaker developer guide, "Labeling job output data".)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.image_finder import ImageFinder, images_folder
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import clean_name, parse_json, read_text, short, split_lines, to_size
from frcnn.data.json_values import as_integer, as_number
from frcnn.data.problems import first_few
from frcnn.errors import UserError

SUFFIXES = (".manifest", ".jsonl")
SIDES = ("left", "top", "width", "height")
METADATA = "-metadata"
VERIFICATION = "groundtruth/label-verification"
ADJUSTED = "adjustment-status"  # a key of the metadata that adjustment jobs write


def manifest_to_coco(
    manifest: Path,
    *,
    images: Path | None = None,
    attribute: str | None = None,
    verified: str | None = None,
    skip_missing: bool = False,
) -> Conversion:
    """Convert a manifest file. Category ids are the class ids, unless lines disagree on them: then names decide.

    Args:
        manifest: the file.
        images: folder with the images, default: that of the manifest. Each is found by the end of its S3 address.
        attribute: label attribute. Default: the only one in a line, or the newest that an adjustment job wrote.
        verified: keep only images with this verdict of a verification job; None: all.
        skip_missing: skip images that are not in the folder, and report them.

    Raises:
        UserError: a line is not JSON, no line has labels, several attributes to choose from, or images are missing.
    """
    folder = images_folder(images, manifest.parent) or manifest.parent
    finder = ImageFinder(folder)
    report = Report()
    tables = CocoBuilder(manifest, report)
    missing = []
    for number, line in enumerate(split_lines(read_text(manifest)), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        entry = parse_json(line, f"{manifest}, {place}")
        source = entry.get("source-ref") if isinstance(entry, dict) else None
        if not isinstance(source, str) or not source:
            raise UserError(f"{manifest}, {place}: 'source-ref' is {short(source)}; expected the address of an image")
        chosen = attribute or _choose_attribute(entry, f"{manifest}, {place}")
        if not _is_wanted(entry, verified, place, report) or not _is_labeled(entry, chosen, place, report):
            continue
        name = finder.find(source)
        if name is None:
            missing.append(source)
            report.skip(f"images that are not in {folder} (see --images)", source)
            continue
        add_labels(tables, name, entry[chosen], entry.get(f"{chosen}{METADATA}"), place, report)
    if missing and not skip_missing:
        raise UserError(
            f"{len(missing)} images of {manifest} are missing from {folder}: {first_few(missing)}; "
            "give the folder that contains them"
        )
    return Conversion(tables.build(), report, folder)


def add_labels(tables: CocoBuilder, name: str, labels: Any, metadata: Any, place: str, report: Report) -> None:
    """Add an image and its boxes.

    Args:
        tables: receives them.
        name: the image's path below the images folder.
        labels: value of the label attribute.
        metadata: value of its metadata attribute; may be missing.
        place: for messages.
        report: receives malformed annotations.
    """
    sizes = labels.get("image_size")
    size = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], dict) else {}
    image_id = tables.add_image(name, to_size(size.get("width"), size.get("height")), place)
    class_map = metadata.get("class-map") if isinstance(metadata, dict) else None
    names: dict[int, str] = {}
    for key, value in class_map.items() if isinstance(class_map, dict) else ():
        class_id = as_integer(key)
        if class_id is None or not clean_name(value):
            report.skip(
                "entries of a class map that are not an id and a name", f"{place}: {short(key)}: {short(value)}"
            )
        else:
            names[class_id] = clean_name(value)
            tables.declare(names[class_id], class_id, place)
    for number, annotation in enumerate(labels["annotations"], start=1):
        where = f"{place} annotation {number}"
        annotation = annotation if isinstance(annotation, dict) else {}
        class_id = as_integer(annotation.get("class_id"))
        sides = [as_number(annotation.get(side)) for side in SIDES]
        if class_id is None or any(side is None for side in sides):
            report.skip("annotations without class_id, left, top, width and height", f"{where}: {short(annotation)}")
            continue
        if class_id not in names:
            names[class_id] = f"class {class_id}"
            report.note("classes that the class map does not name, named by their id", f"{where}: {class_id}")
            tables.declare(names[class_id], class_id, where)
        left, top, width, height = (side or 0.0 for side in sides)
        tables.add_box(image_id, names[class_id], (left, top, width, height), where)


def has_boxes(value: Any) -> bool:
    """Whether a value is the output of a bounding box job."""
    return isinstance(value, dict) and isinstance(value.get("annotations"), list)


def _choose_attribute(entry: dict[str, Any], place: str) -> str | None:
    """The label attribute of a line; None if it has none."""
    found = [name for name, value in entry.items() if has_boxes(value)]
    if len(found) < 2:
        return found[0] if found else None
    metadata = {name: _metadata(entry, name) for name in found}
    adjusted = [name for name in found if ADJUSTED in metadata[name]]
    dates = {name: str(metadata[name].get("creation-date", "")) for name in adjusted}
    if not adjusted or Counter(dates.values())[max(dates.values())] > 1:
        raise UserError(
            f"{place}: several label attributes ({first_few(map(short, found))}); choose one with frcnn convert "
            "manifest --attribute, or remove the others from the manifest"
        )
    return max(adjusted, key=dates.__getitem__)


def _is_wanted(entry: Mapping[str, Any], verified: str | None, place: str, report: Report) -> bool:
    """Whether a verification job left the line in the selection; its verdicts are reported."""
    verdicts = [
        clean_name(_metadata(entry, name.removesuffix(METADATA)).get("class-name"))
        for name, value in entry.items()
        if name.endswith(METADATA) and isinstance(value, dict) and value.get("type") == VERIFICATION
    ]
    if verified is not None and verified not in verdicts:
        report.skip(f"images without the verdict {verified!r} of a verification job", place)
        return False
    if verified is None:
        for verdict in verdicts:
            report.note(f"images verified as {short(verdict)}, which are kept (select with --verified)", place)
    return True


def _is_labeled(entry: Mapping[str, Any], attribute: str | None, place: str, report: Report) -> bool:
    if attribute is not None and has_boxes(entry.get(attribute)):
        return True
    names = [attribute] if attribute else [name.removesuffix(METADATA) for name in entry if name.endswith(METADATA)]
    reasons = [_metadata(entry, name).get("failure-reason") for name in names]
    if any(reasons):
        report.skip("lines whose labeling failed", f"{place}: {short(next(filter(None, reasons)))}")
    else:
        kind = (
            f"label attribute {attribute!r}" if attribute else "label attribute with 'annotations' (a bounding box job)"
        )
        report.skip(f"lines without a {kind}", place)
    return False


def _metadata(entry: Mapping[str, Any], attribute: str) -> dict[str, Any]:
    value = entry.get(f"{attribute}{METADATA}")
    return value if isinstance(value, dict) else {}
