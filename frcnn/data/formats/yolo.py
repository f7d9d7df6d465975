"""Convert a YOLO dataset (Ultralytics, Roboflow, Label Studio, CVAT, Darknet) to COCO ``instances`` tables.

A label file has the name of its image and one row per object: the class id and the box's center, width and height as
shares of the upright image's sides. Segmentation and oriented-box rows have the corners of a polygon instead; pose rows
have keypoints after the box. (Ultralytics documentation, "Object Detection Datasets" and its neighbors.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.image_finder import read_size
from frcnn.data.formats.regions import Box, points_to_box
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import read_text, split_lines
from frcnn.data.formats.yolo_layout import NAMES_FILES, YoloLayout, find_layout
from frcnn.data.image_files import FolderNames, is_hidden
from frcnn.data.json_values import as_integer, as_number
from frcnn.errors import UserError

TOLERANCE = 0.01  # of an image's side, by which a coordinate may exceed 0..1
LABEL_SUFFIX = ".txt"
NOT_A_BOX = (math.nan, math.nan, math.nan, math.nan)


def yolo_to_coco(source: Path, *, split: str | None = None, classes: Sequence[str] = ()) -> Conversion:
    """Convert one split of a YOLO dataset. Category ids are YOLO's class ids, from 0.

    An image without a label file is an image without objects, as Ultralytics has it.

    Args:
        source: ``data.yaml``, or the dataset's folder.
        split: ``train``, ``val`` or ``test``; None: the first of them that ``data.yaml`` has.
        classes: names of the classes 0, 1, …; default: those of the dataset.

    Raises:
        UserError: no images, no class names, no labels, or not one usable object.
    """
    report = Report()
    layout = find_layout(source, split, report)
    names = dict(enumerate(classes)) or layout.class_names
    if not names:
        raise UserError(f"{source} has no class names (data.yaml, {', '.join(NAMES_FILES)}); give them with --classes")
    folder = Path(os.path.commonpath([image.parent for image in layout.images]))
    tables = CocoBuilder(source, report)
    for class_id, name in names.items():
        tables.declare(name, class_id)
    if layout.other_splits:
        report.note(f"the split is {layout.split!r}; choose another with --split: {', '.join(layout.other_splits)}")
    used, listings = set(), Listings()
    for image in layout.images:
        size = read_size(image, report)
        if size is None:
            continue
        name = image.relative_to(folder).as_posix()
        image_id = tables.add_image(name, size, name)
        label = find_label_file(image, listings)
        if label is None:
            report.note("images without a label file, taken as images without objects", name)
            continue
        used.add(label)
        _add_rows(label, size, image_id, names, layout.keypoints, tables, report)
    if not used:
        raise UserError(
            f"{source}: none of the {len(layout.images)} images has a label file; expected for {layout.images[0]}: "
            f"{' or '.join(map(str, _label_files(layout.images[0])))}"
        )
    for orphan in _orphans(layout, used):
        report.skip("label files without an image", str(orphan))
    return Conversion(tables.build(), report, folder)


class Listings(dict[Path, FolderNames]):
    """The names in folders, each read once."""

    def __missing__(self, folder: Path) -> FolderNames:
        self[folder] = FolderNames(folder)
        return self[folder]


def find_label_file(image: Path, listings: Listings) -> Path | None:
    """The label file of an image: in ``labels`` in place of the path's last ``images``, or beside the image.

    Its name may be in another Unicode normal form or letter case.
    """
    for file in _label_files(image):
        name = listings[file.parent].find(file.name)
        if name is not None and (file.parent / name).is_file():
            return file.parent / name
    return None


def _label_files(image: Path) -> list[Path]:
    file = image.with_suffix(LABEL_SUFFIX)
    parts = image.parent.parts
    if "images" not in parts:
        return [file]
    last = len(parts) - 1 - parts[::-1].index("images")
    return [Path(*parts[:last], "labels", *parts[last + 1 :]) / file.name, file]


def _orphans(layout: YoloLayout, used: set[Path]) -> list[Path]:
    """Label files in the folders of a split that belong to none of its images. A list of images may leave some out."""
    folders = {file.parent for file in used if any(_is_below(file, folder) for folder in _with_labels(layout.folders))}
    found = {file for folder in folders for file in folder.iterdir() if file.suffix.lower() == LABEL_SUFFIX}
    stems = {image.stem for image in layout.images}
    return sorted(
        file for file in found - used if not is_hidden(file) and file.name not in NAMES_FILES and file.stem not in stems
    )


def _with_labels(folders: Sequence[Path]) -> list[Path]:
    return [*folders, *(_label_files(folder / "x")[0].parent for folder in folders)]


def _is_below(file: Path, folder: Path) -> bool:
    return folder in file.parents


def _add_rows(
    label: Path,
    size: tuple[int, int],
    image_id: int,
    names: dict[int, str],
    keypoints: int,
    tables: CocoBuilder,
    report: Report,
) -> None:
    try:
        lines = split_lines(read_text(label))
    except UserError as error:
        report.skip("label files that are not text", str(error))
        return
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        place = f"{label.name} line {number}"
        class_id = as_integer(words[0])
        values = [as_number(word) for word in words[1:]]
        numbers = [value for value in values if value is not None]
        box = _row_to_box(numbers, keypoints, place, report)
        if class_id is None or len(numbers) < len(values) or box is None:
            report.skip("rows that are neither a box, a polygon nor a pose", place)
        elif class_id not in names:
            report.skip(f"objects of classes without a name (there are {len(names)} names)", f"{place}: {class_id}")
        elif not all(map(math.isfinite, box)):
            report.skip("boxes with a coordinate that is not a usable number", place)
        elif _exceeds(box):
            report.skip("boxes outside 0..1 (pixels instead of shares?)", place)
        else:
            scaled = (box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1])
            tables.add_box(image_id, names[class_id], scaled, place)


def _row_to_box(numbers: list[float], keypoints: int, place: str, report: Report) -> Box | None:
    """Box of a row without its class id: the top left corner, width and height as shares of the image's sides."""
    count = len(numbers)
    if count == 4:
        return _from_center(numbers)
    if count == 5:
        report.repair("rows with a sixth value (confidence or track id), which is ignored", place)
        return _from_center(numbers)
    if count > 5 and (count == 4 + keypoints or (not keypoints and count % 2 and (count - 4) % 3 == 0)):
        report.note("pose rows, of which the box is used", place)
        return _from_center(numbers)
    if count >= 6 and count % 2 == 0:
        report.note("polygons or oriented boxes, converted to upright boxes", place)
        return points_to_box(numbers[::2], numbers[1::2]) or NOT_A_BOX
    return None


def _from_center(numbers: list[float]) -> Box:
    x, y, width, height = numbers[:4]
    return x - width / 2, y - height / 2, width, height


def _exceeds(box: Box) -> bool:
    """Whether center or size are outside 0..1. The box itself may extend over the edge."""
    x, y, width, height = box
    return not all(-TOLERANCE <= v <= 1 + TOLERANCE for v in (x + width / 2, y + height / 2, width, height))
