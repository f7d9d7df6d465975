"""Augmented manifests of SageMaker Ground Truth, as a file or as a stream, -> COCO's ``instances``.

One JSON object a line: ``source-ref`` names the picture; a label attribute holds ``image_size`` and ``annotations`` with
``class_id``, ``left``, ``top``, ``width``, ``height`` in absolute pixels, which is COCO's ``bbox``; its ``…-metadata`` holds
``class-map``, the names of the classes in that line. (SageMaker developer guide, "Bounding box job output".)
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
    """What one picture's label attribute says.

    Attributes:
        size: width and height in pixels, None where the labels do not say.
        boxes: ``(class_id, left, top, width, height)``.
        class_map: names by class id, as far as they are given.
    """

    size: tuple[int, int] | None
    boxes: tuple[tuple[int, float, float, float, float], ...]
    class_map: Mapping[int, str]


def manifest_to_coco(manifest: Path, images: Path) -> dict[str, Any]:
    """COCO tables of a manifest file whose pictures are below ``images``, wherever they were in S3.

    Raises:
        UserError: names the manifest's line and what is wrong there, or the pictures that are not in the folder.
    """
    pictures = _Pictures(images)
    named: dict[str, Labels] = {}
    missing = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{manifest}, line {number}"
        entry = _object(line, where)
        source = entry.get("source-ref")
        if not isinstance(source, str) or not source:
            raise UserError(f"{where}: 'source-ref' is {json.dumps(source)}; expected the address of a picture")
        name = pictures.find(source)
        if name is None:
            missing.append(source)
            continue
        if name in named:
            raise UserError(f"{where}: {source} stands in an earlier line already; join the two lines")
        named[name] = _labels_of(entry, where)
    if missing:
        raise UserError(
            f"{len(missing)} pictures of {manifest} are not in {images}: {few(missing)}; give the channel that holds them"
        )
    return _tables(named, str(manifest))


def stream_to_coco(records: Iterable[bytes], images: Path) -> dict[str, Any]:
    """COCO tables of a stream that alternates a picture's bytes and its labels; the pictures are written into ``images``.

    They are named by their content and sorted by that, so that a stream in another order gives the same tables; pictures that
    come twice count once.

    Args:
        records: for each picture its bytes, its labels as JSON and, where it was asked for, the labels' metadata as JSON.

    Raises:
        UserError: the stream is of another form.
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
                f"the stream begins with labels; expected a picture first: set AttributeNames to ['source-ref', label] (record {position})"
            )
        else:
            content = _object(record, f"record {position} of the stream")
            entry["labels-metadata" if "class-map" in content else "labels"] = content
    return _tables(
        {name: _labels_of(named[name], f"picture {name} of the stream") for name in sorted(named)}, "the stream"
    )


class _Pictures:
    """Files below a folder, found by the end of an S3 address: a channel holds them below some prefix that it does not tell."""

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
        raise UserError(f"{where}: expected one attribute with 'annotations' (boxes of Ground Truth), {found}")
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
            f"{where}: {attribute!r} is not of the form of a bounding box job ({type(error).__name__}: {error}); expected 'image_size' "
            "and 'annotations' with class_id, left, top, width and height"
        ) from error


def _tables(named: Mapping[str, Labels], source: str) -> dict[str, Any]:
    names: dict[int, str] = {}
    for picture, labels in named.items():
        for number, name in labels.class_map.items():
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"{source}: class {number} is {names[number]!r} and, for {picture}, {name!r}; label with one class map"
                )
    for labels in named.values():
        for number, *_ in labels.boxes:
            names.setdefault(number, f"class {number}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (picture, labels) in enumerate(named.items(), start=1):
        size = {"width": labels.size[0], "height": labels.size[1]} if labels.size else {}
        images.append({"id": image_id, "file_name": picture, **size})
        for class_id, left, top, width, height in labels.boxes:
            box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": class_id, **box})
    return {
        "images": images,
        "categories": [{"id": number, "name": names[number]} for number in sorted(names)],
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
