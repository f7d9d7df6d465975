"""Convert augmented manifests of SageMaker Ground Truth, from a file or a stream, to COCO ``instances`` tables.

Each line is a JSON object: ``source-ref`` is the image's address; a label attribute holds ``image_size`` and
``annotations`` with ``class_id``, ``left``, ``top``, ``width`` and ``height`` in absolute pixels, which is COCO's
``bbox``; its ``…-metadata`` holds ``class-map``, the names of the classes in that line (SageMaker developer guide,
"Bounding box job output").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from frcnn.data.annotations import few
from frcnn.errors import UserError

SUFFIXES = (".manifest", ".jsonl")


@dataclass(frozen=True)
class Labels:
    """The label attribute of one image.

    Attributes:
        size: width and height in pixels; None if the labels do not include it.
        boxes: ``(class_id, left, top, width, height)`` in pixels.
        class_map: class names by id; may be incomplete.
    """

    size: tuple[int, int] | None
    boxes: tuple[tuple[int, float, float, float, float], ...]
    class_map: Mapping[int, str]


def manifest_to_coco(manifest: Path, images: Path) -> dict[str, Any]:
    """Convert a manifest file to COCO tables.

    Args:
        manifest: the file.
        images: folder with the images. Each is found by the end of its S3 address, whatever the prefix.

    Raises:
        UserError: a line is malformed (its number and the value), or images are missing from the folder.
    """
    finder = _ImageFinder(images)
    named: dict[str, Labels] = {}
    missing = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{manifest}, line {number}"
        entry = _object(line, where)
        source = entry.get("source-ref")
        if not isinstance(source, str) or not source:
            raise UserError(f"{where}: 'source-ref' is {json.dumps(source)}; expected the address of an image")
        name = finder.find(source)
        if name is None:
            missing.append(source)
            continue
        if name in named:
            raise UserError(f"{where}: {source} is also the image of an earlier line; merge the two lines")
        named[name] = _labels_of(entry, where)
    if missing:
        raise UserError(
            f"{len(missing)} images of {manifest} are missing from {images}: {few(missing)}; "
            "give the folder that contains them"
        )
    return _tables(named, str(manifest))


def stream_to_coco(records: Iterable[bytes], images: Path) -> dict[str, Any]:
    """Write the images of a stream into a folder and convert its labels to COCO tables.

    Images are named by a hash of their content and sorted by name, so the order of the stream does not matter; repeated
    images count once.

    Args:
        records: for each image its bytes, its labels as JSON and optionally the labels' metadata as JSON.
        images: folder to write to; created if missing.

    Raises:
        UserError: the stream has another structure.
    """
    images.mkdir(parents=True, exist_ok=True)
    named: dict[str, dict[str, Any]] = {}
    entry: dict[str, Any] | None = None
    for position, record in enumerate(records):
        if record.lstrip()[:1] != b"{":
            name = hashlib.sha256(record).hexdigest()[:24]
            if not (images / name).exists():
                (images / name).write_bytes(record)
            entry = named[name] = {}
        elif entry is None:
            raise UserError(
                f"record {position} of the stream is a label without an image; "
                "set AttributeNames to ['source-ref', LABEL ATTRIBUTE]"
            )
        else:
            content = _object(record, f"record {position} of the stream")
            entry["labels-metadata" if "class-map" in content else "labels"] = content
    return _tables(
        {name: _labels_of(named[name], f"image {name} of the stream") for name in sorted(named)}, "the stream"
    )


class _ImageFinder:
    """Finds files below a folder by the end of their S3 address: the prefix that the folder stands for is unknown."""

    def __init__(self, folder: Path) -> None:
        self._names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    def find(self, address: str) -> str | None:
        parts = PurePosixPath(address.partition("://")[2] or address).parts
        for start in range(len(parts)):
            name = "/".join(parts[start:]).lstrip("/")
            if name in self._names:
                return name
        return None


def _labels_of(entry: Mapping[str, Any], where: str) -> Labels:
    attributes = [name for name, value in entry.items() if isinstance(value, dict) and "annotations" in value]
    if len(attributes) != 1:
        found = f"found {', '.join(attributes)}" if attributes else "found none"
        raise UserError(f"{where}: expected one label attribute with 'annotations' (a bounding box job), {found}")
    (attribute,) = attributes
    metadata = entry.get(f"{attribute}-metadata")
    class_map = metadata.get("class-map", {}) if isinstance(metadata, dict) else {}
    try:
        boxes = tuple(
            (int(box["class_id"]), *(float(box[side]) for side in ("left", "top", "width", "height")))
            for box in entry[attribute]["annotations"]
        )
        sizes = entry[attribute].get("image_size") or [None]
        size = (int(sizes[0]["width"]), int(sizes[0]["height"])) if sizes[0] else None
        return Labels(size, boxes, {int(number): str(name) for number, name in class_map.items()})  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"{where}: {attribute!r} is not the output of a bounding box job ({type(error).__name__}: {error}); "
            "expected 'image_size' and 'annotations' with class_id, left, top, width and height"
        ) from error


def _tables(named: Mapping[str, Labels], source: str) -> dict[str, Any]:
    class_names: dict[int, str] = {}
    for name, labels in named.items():
        for class_id, class_name in labels.class_map.items():
            if class_names.setdefault(class_id, class_name) != class_name:
                raise UserError(
                    f"{source}: class {class_id} is {class_names[class_id]!r} but {class_name!r} for {name}; "
                    "use the same class map for all images"
                )
    for labels in named.values():
        for class_id, *_ in labels.boxes:
            class_names.setdefault(class_id, f"class {class_id}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, labels) in enumerate(named.items(), start=1):
        size = {"width": labels.size[0], "height": labels.size[1]} if labels.size else {}
        images.append({"id": image_id, "file_name": name, **size})
        for class_id, left, top, width, height in labels.boxes:
            box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": class_id, **box})
    return {
        "images": images,
        "categories": [{"id": class_id, "name": class_names[class_id]} for class_id in sorted(class_names)],
        "annotations": annotations,
    }


def _object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}); expected one object") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} holds a {type(content).__name__}; expected one JSON object")
    return content
