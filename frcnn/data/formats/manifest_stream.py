"""Convert the stream of an augmented manifest, which SageMaker's Pipe mode delivers, to COCO ``instances`` tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frcnn.data.formats.builder import CocoBuilder, Conversion
from frcnn.data.formats.manifest import add_labels, has_boxes
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import parse_json
from frcnn.errors import UserError


def stream_to_coco(records: Iterable[bytes], images: Path) -> Conversion:
    """Write the images of a stream into a folder and convert its labels.

    Images are named by a hash of their content and sorted by name, so the order of the stream does not matter; repeated
    images count once.

    Args:
        records: for each image its bytes, its labels as JSON and optionally the labels' metadata as JSON.
        images: folder to write to; created if missing.

    Raises:
        UserError: the stream has another structure.
    """
    images.mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict[str, Any]] = {}
    entry: dict[str, Any] | None = None
    for position, record in enumerate(records):
        if record.lstrip()[:1] != b"{":
            name = hashlib.sha256(record).hexdigest()[:24]
            if not (images / name).exists():
                (images / name).write_bytes(record)
            entry = entries[name] = {}
        elif entry is None:
            raise UserError(
                f"record {position} of the stream is a label without an image; "
                "set AttributeNames to ['source-ref', LABEL ATTRIBUTE]"
            )
        else:
            content = parse_json(record, f"record {position} of the stream")
            entry["labels" if has_boxes(content) else "metadata"] = content
    report = Report()
    tables = CocoBuilder("the stream", report)
    for name in sorted(entries):
        labels, metadata = entries[name].get("labels"), entries[name].get("metadata")
        if labels is not None:
            add_labels(tables, name, labels, metadata, f"image {name}", report)
        elif isinstance(metadata, dict) and "failure-reason" in metadata:
            report.skip("images whose labeling failed", name)
        else:
            report.skip("images without labels with 'annotations' (a bounding box job)", name)
    return Conversion(tables.build(), report, images)
