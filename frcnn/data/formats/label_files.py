"""Detections as label files, from which annotation tools pre-label images: the way back of the converters.

The formats are those that the tools import (CVAT: "Formats" in its manual, Label Studio: "Import pre-annotated data",
Ground Truth: "Labeling job output data"). They name images by paths relative to the folder of the images.
"""

from __future__ import annotations

import datetime
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import yaml

from frcnn.data.formats.builder import DECIMALS
from frcnn.data.formats.manifest import METADATA
from frcnn.errors import UserError

LABEL_ATTRIBUTE = "labels"  # of a manifest
RELATIVE_DECIMALS = 8  # of YOLO's coordinates: exact to a thousandth of a pixel
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio finds files below its document root
BY_ADDRESS = ("manifest", "label-studio")  # formats that name images by addresses
BY_STEM = ("yolo", "voc")  # formats with a file per image, which has another suffix than the image


class LabeledImage(NamedTuple):
    """Boxes of one image.

    Attributes:
        name: path below the folder of the images, with slashes.
        width: of the upright image, pixels; ``height`` likewise.
        boxes: ``[N, 4]`` corners in pixels, within the image.
        labels: ``[N]`` in 1..K.
        scores: ``[N]`` in 0..1.
    """

    name: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class LabelClasses(NamedTuple):
    """Classes of a model: label k is ``names[k - 1]``, with the COCO id ``category_ids[k - 1]``."""

    names: Sequence[str]
    category_ids: Sequence[int]


def check_image_names(names: Sequence[str], label_format: str, images_uri: str | None) -> None:
    """Check that images can be told apart in the label files.

    Raises:
        UserError: two images have the same name; or the address of the images is missing, or would not be used.
    """
    if images_uri and label_format not in BY_ADDRESS:
        raise UserError(
            f"--images-uri is {images_uri}, but labels of format {label_format} contain no addresses; leave it out"
        )
    if label_format == "manifest" and not (images_uri or "").startswith("s3://"):
        raise UserError(
            f"--images-uri is {images_uri}; a manifest names images by their S3 addresses: give that of the images "
            "folder, such as s3://bucket/images"
        )
    seen: dict[str, str] = {}
    for name in names:
        key = str(PurePosixPath(name).with_suffix("")) if label_format in BY_STEM else name
        if key in seen:
            raise UserError(
                f"the images {seen[key]} and {name} would have the same labels in format {label_format}; rename one, "
                "or give one folder that contains both"
            )
        seen[key] = name


def write_labels(
    label_format: str,
    images: Sequence[LabeledImage],
    classes: LabelClasses,
    folder: Path,
    images_uri: str | None = None,
) -> None:
    """Write the label files of all images, with or without boxes, into an existing folder.

    Args:
        label_format: a key of ``FORMATS``.
        images_uri: address of the folder of the images, for the formats that name images by addresses.
    """
    FORMATS[label_format](images, classes, folder, (images_uri or "").rstrip("/"))


def _write_coco(images: Sequence[LabeledImage], classes: LabelClasses, folder: Path, _: str) -> None:
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        for (x1, y1, x2, y2), label, score in _rows(image):
            box = [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(classes.category_ids[label - 1]),
                    "bbox": box,
                    "area": round(box[2] * box[3], DECIMALS),
                    "segmentation": [],
                    "iscrowd": 0,
                    "score": score,
                }
            )
    tables = {
        "images": [
            {"id": image_id, "file_name": image.name, "width": image.width, "height": image.height}
            for image_id, image in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": int(class_id), "name": name}
            for class_id, name in zip(classes.category_ids, classes.names, strict=True)
        ],
    }
    (folder / "instances_default.json").write_text(json.dumps(tables) + "\n")


def _write_yolo(images: Sequence[LabeledImage], classes: LabelClasses, folder: Path, _: str) -> None:
    for image in images:
        scale = np.array([image.width, image.height] * 2)
        rows = []
        for box, label, _score in _rows(image):  # a sixth number would not be read as a score by every tool
            x1, y1, x2, y2 = np.array(box) / scale
            numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            rows.append(" ".join([str(label - 1), *(f"{number:.{RELATIVE_DECIMALS}f}" for number in numbers)]))
        _write_lines(folder / "labels" / "train" / PurePosixPath(image.name).with_suffix(".txt"), rows)
    _write_lines(folder / "train.txt", (f"images/train/{image.name}" for image in images))
    content = {"path": "./", "train": "train.txt", "names": dict(enumerate(classes.names))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_voc(images: Sequence[LabeledImage], classes: LabelClasses, folder: Path, _: str) -> None:
    for image in images:
        root = ElementTree.Element("annotation")
        _add_texts(root, filename=image.name)
        _add_texts(ElementTree.SubElement(root, "size"), width=image.width, height=image.height, depth=3)
        for (x1, y1, x2, y2), label, _score in _rows(image):
            element = ElementTree.SubElement(root, "object")
            _add_texts(element, name=classes.names[label - 1], difficult=0)
            corners = {"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2}
            _add_texts(
                ElementTree.SubElement(element, "bndbox"),
                **{corner: round(value, DECIMALS) for corner, value in corners.items()},
            )
        ElementTree.indent(root)
        file = folder / "Annotations" / PurePosixPath(image.name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(file, encoding="utf-8")
    stems = (str(PurePosixPath(image.name).with_suffix("")) for image in images)
    _write_lines(folder / "ImageSets" / "Main" / "default.txt", stems)
    # Classes other than VOC's own; the columns are color, parts and actions.
    _write_lines(folder / "labelmap.txt", (f"{name}:::" for name in classes.names))


def _write_manifest(images: Sequence[LabeledImage], classes: LabelClasses, folder: Path, images_uri: str) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds")
    lines = []
    for image in images:
        annotations, objects = [], []
        for box, label, score in _rows(image):
            left, top, right, bottom = (round(value) for value in box)  # Ground Truth works in whole pixels
            sides = {"left": left, "top": top, "width": max(right - left, 1), "height": max(bottom - top, 1)}
            annotations.append({"class_id": label - 1, **sides})
            objects.append({"confidence": score})
        metadata = {
            "objects": objects,
            "class-map": {str(class_id): name for class_id, name in enumerate(classes.names)},
            "type": "groundtruth/object-detection",
            "human-annotated": "no",
            "creation-date": now,
            "job-name": "frcnn-predict",
        }
        size = {"width": image.width, "height": image.height, "depth": 3}
        line = {
            "source-ref": f"{images_uri}/{image.name}",
            LABEL_ATTRIBUTE: {"image_size": [size], "annotations": annotations},
            f"{LABEL_ATTRIBUTE}{METADATA}": metadata,
        }
        lines.append(json.dumps(line))
    _write_lines(folder / "labels.manifest", lines)


def _write_label_studio(images: Sequence[LabeledImage], classes: LabelClasses, folder: Path, images_uri: str) -> None:
    tasks = []
    for image in images:
        results = []
        for number, ((x1, y1, x2, y2), label, score) in enumerate(_rows(image), start=1):
            sides = {"x": x1 / image.width, "width": (x2 - x1) / image.width}
            sides |= {"y": y1 / image.height, "height": (y2 - y1) / image.height}
            results.append(
                {
                    "id": str(number),
                    "from_name": "label",
                    "to_name": "image",
                    "type": "rectanglelabels",
                    "original_width": image.width,
                    "original_height": image.height,
                    "image_rotation": 0,
                    "value": {
                        **{side: round(100 * share, RELATIVE_DECIMALS) for side, share in sides.items()},
                        "rotation": 0,
                        "rectanglelabels": [classes.names[label - 1]],
                    },
                    "score": score,
                }
            )
        address = f"{images_uri}/{quote(image.name)}" if images_uri else f"{LOCAL_FILES}{quote(image.name)}"
        score = round(float(np.mean(image.scores)), 6) if len(image.scores) else 0.0
        prediction = {"model_version": "frcnn", "score": score, "result": results}
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    (folder / "tasks.json").write_text(json.dumps(tasks) + "\n")


_Writer = Callable[[Sequence[LabeledImage], LabelClasses, Path, str], None]
FORMATS: dict[str, _Writer] = {
    "coco-dataset": _write_coco,
    "yolo": _write_yolo,
    "voc": _write_voc,
    "manifest": _write_manifest,
    "label-studio": _write_label_studio,
}


def _rows(image: LabeledImage) -> list[tuple[list[float], int, float]]:
    """Box, label and score of each object as plain numbers."""
    boxes = np.asarray(image.boxes, np.float64).reshape(-1, 4).tolist()
    scores = np.asarray(image.scores, np.float64).round(6).tolist()
    return list(zip(boxes, np.asarray(image.labels).tolist(), scores, strict=True))


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _add_texts(element: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(element, name).text = str(text)
