"""Conversion of Ground Truth manifests, from files and from RecordIO streams."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frcnn.data.coco import load_index
from frcnn.data.manifest import manifest_to_coco, stream_to_coco
from frcnn.data.recordio import read_records
from frcnn.errors import UserError


def line(source: str, *boxes: tuple[int, int, int, int, int], names: dict[str, str] | None = None) -> dict[str, Any]:
    annotations = [dict(zip(("class_id", "left", "top", "width", "height"), box, strict=True)) for box in boxes]
    return {
        "source-ref": source,
        "bb": {"image_size": [{"width": 60, "height": 40, "depth": 3}], "annotations": annotations},
        "bb-metadata": {"class-map": names or {}, "type": "groundtruth/object-detection", "human-annotated": "yes"},
    }


def make_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (200 * number, 99, 7)).save(folder / name, "JPEG")
    return folder


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("\n".join(json.dumps(entry) for entry in lines) + "\n\n")
    return file


def record(*parts: bytes) -> bytes:
    """Frame a record as dmlc-core's writer does: flag 0 for a single chunk, otherwise 1, 2 …, 3."""
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    framed = b""
    for flag, part in zip(flags, parts, strict=True):
        framed += struct.pack("<II", 0xCED7230A, flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return framed


def test_class_maps_are_merged_and_boxes_are_kept(tmp_path: Path) -> None:
    images = make_images(tmp_path / "channel", "b.jpg", "deep/a.jpg")
    manifest = write(
        tmp_path / "train.manifest",
        line("s3://bucket/some/prefix/b.jpg", (1, 11, 13, 20, 8), names={"1": "cat"}),
        line("s3://bucket/other/deep/a.jpg", (0, 1, 2, 3, 4), (1, 5, 6, 7, 8), names={"0": "dog", "1": "cat"}),
    )
    tables = manifest_to_coco(manifest, images)
    assert [entry["file_name"] for entry in tables["images"]] == ["b.jpg", "deep/a.jpg"]
    assert tables["categories"] == [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    assert [(entry["image_id"], entry["category_id"], entry["bbox"]) for entry in tables["annotations"]] == [
        (1, 1, [11, 13, 20, 8]),
        (2, 0, [1, 2, 3, 4]),
        (2, 1, [5, 6, 7, 8]),
    ]
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    index = load_index(images, tmp_path / "instances.json", "error")
    assert (index.class_names, index.images[0].boxes.tolist()) == (("dog", "cat"), [[11, 13, 31, 21]])


def test_errors_name_their_line(tmp_path: Path) -> None:
    images = make_images(tmp_path / "channel", "a.jpg", "b.jpg")
    good = line("s3://b/a.jpg", (0, 1, 2, 3, 4), names={"0": "dog"})
    for bad, message in (
        (
            {"source-ref": "s3://b/b.jpg"},
            r"line 2: expected one label attribute with 'annotations' \(a bounding box job\), found none",
        ),
        ({**line("s3://b/b.jpg"), "more": {"annotations": []}}, "found bb, more"),
        ({"bb": good["bb"]}, r"line 2: 'source-ref' is null"),
        (line("s3://b/b.jpg", names={"0": "cat"}), "class 0 is 'dog' but 'cat' for b.jpg"),
        (line("s3://b/c.jpg"), r"1 images of .* are missing from .*: s3://b/c.jpg"),
        (good, r"line 2: s3://b/a.jpg is also the image of an earlier line"),
        (
            {"source-ref": "s3://b/b.jpg", "bb": {"annotations": [{"class_id": 0, "left": 1}]}},
            "line 2: 'bb' is not the output of a bounding box job .*'top'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            manifest_to_coco(write(tmp_path / "m.manifest", good, bad), images)
    (tmp_path / "m.manifest").write_text('{"source-ref": \n')
    with pytest.raises(UserError, match=r"m.manifest, line 1 is not valid JSON"):
        manifest_to_coco(tmp_path / "m.manifest", images)


def test_order_of_the_stream_does_not_matter(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "source", "a.jpg", "b.jpg")
    entries = [line("a.jpg", (0, 1, 2, 3, 4), names={"0": "dog"}), line("b.jpg", (3, 5, 6, 7, 8), names={"3": "cow"})]
    whole = [
        [
            (folder / entry["source-ref"]).read_bytes(),
            json.dumps(entry["bb"]).encode(),
            json.dumps(entry["bb-metadata"]).encode(),
        ]
        for entry in entries
    ]
    forward = stream_to_coco([part for group in whole for part in group], tmp_path / "forward")
    backward = stream_to_coco([part for group in reversed(whole) for part in group], tmp_path / "backward")
    assert forward == backward
    assert {c["name"] for c in forward["categories"]} == {"dog", "cow"}
    without_names = stream_to_coco([part for group in whole for part in group[:2]], tmp_path / "nameless")
    assert without_names["categories"] == [{"id": 0, "name": "class 0"}, {"id": 3, "name": "class 3"}]
    (tmp_path / "stream.json").write_text(json.dumps(forward))
    assert len(load_index(tmp_path / "forward", tmp_path / "stream.json", "error").images) == 2
    with pytest.raises(UserError, match="record 0 of the stream is a label without an image"):
        stream_to_coco([whole[0][1]], tmp_path / "broken")


@given(st.lists(st.lists(st.binary(max_size=9), min_size=1, max_size=4), max_size=4))
def test_chunks_are_joined_to_records(records: list[list[bytes]]) -> None:
    stream = io.BytesIO(b"".join(record(*parts) for parts in records))
    assert list(read_records(stream, "it")) == [struct.pack("<I", 0xCED7230A).join(parts) for parts in records]


def test_truncated_and_foreign_streams_are_refused() -> None:
    framed = record(b"an image")
    for cut in (4, 10, len(framed) - 4):
        with pytest.raises(UserError, match="train_0 is truncated: it ends within a record"):
            list(read_records(io.BytesIO(framed[:cut]), "train_0"))
    with pytest.raises(UserError, match="is truncated"):
        list(read_records(io.BytesIO(record(b"first", b"last")[:16]), "train_0"))
    with pytest.raises(UserError, match=r"is not RecordIO .*RecordWrapperType"):
        list(read_records(io.BytesIO(b"\xff\xd8\xff\xe0 not framed"), "train_0"))
