"""Ground Truth's manifests as COCO tables, and the stream that carries them."""

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


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (200 * number, 99, 7)).save(folder / name, "JPEG")
    return folder


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("\n".join(json.dumps(entry) for entry in lines) + "\n\n")
    return file


def record(*parts: bytes) -> bytes:
    """As dmlc-core's writer: a whole record is one part with flag 0; else 1, 2 …, 3."""
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    framed = b""
    for flag, part in zip(flags, parts, strict=True):
        framed += struct.pack("<II", 0xCED7230A, flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return framed


def test_class_maps_are_joined_and_boxes_are_taken_as_they_are(tmp_path: Path) -> None:
    images = pictures(tmp_path / "channel", "b.jpg", "deep/a.jpg")
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


def test_mistakes_are_told_with_their_line(tmp_path: Path) -> None:
    images = pictures(tmp_path / "channel", "a.jpg", "b.jpg")
    good = line("s3://b/a.jpg", (0, 1, 2, 3, 4), names={"0": "dog"})
    for bad, message in (
        (
            {"source-ref": "s3://b/b.jpg"},
            r"line 2: expected one attribute with 'annotations' \(boxes of Ground Truth\), found none",
        ),
        ({**line("s3://b/b.jpg"), "more": {"annotations": []}}, "found bb, more"),
        ({"bb": good["bb"]}, r"line 2: 'source-ref' is null"),
        (line("s3://b/b.jpg", names={"0": "cat"}), "class 0 is 'dog' and, for b.jpg, 'cat'"),
        (line("s3://b/c.jpg"), r"1 pictures of .* are not in .*: s3://b/c.jpg"),
        (good, r"line 2: s3://b/a.jpg stands in an earlier line"),
        (
            {"source-ref": "s3://b/b.jpg", "bb": {"annotations": [{"class_id": 0, "left": 1}]}},
            "line 2: 'bb' is not of the form .*'top'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            manifest_to_coco(write(tmp_path / "m.manifest", good, bad), images)
    (tmp_path / "m.manifest").write_text('{"source-ref": \n')
    with pytest.raises(UserError, match=r"m.manifest, line 1 is not valid JSON"):
        manifest_to_coco(tmp_path / "m.manifest", images)


def test_a_stream_in_any_order_gives_the_same_tables(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "source", "a.jpg", "b.jpg")
    entries = [line("a.jpg", (0, 1, 2, 3, 4), names={"0": "dog"}), line("b.jpg", (3, 5, 6, 7, 8), names={"3": "cow"})]
    whole = [
        [
            (folder / entry["source-ref"]).read_bytes(),
            json.dumps(entry["bb"]).encode(),
            json.dumps(entry["bb-metadata"]).encode(),
        ]
        for entry in entries
    ]
    forth = stream_to_coco([part for group in whole for part in group], tmp_path / "forth")
    back = stream_to_coco([part for group in reversed(whole) for part in group], tmp_path / "back")
    assert forth == back
    assert {c["name"] for c in forth["categories"]} == {"dog", "cow"}
    without_names = stream_to_coco([part for group in whole for part in group[:2]], tmp_path / "nameless")
    assert without_names["categories"] == [{"id": 0, "name": "class 0"}, {"id": 3, "name": "class 3"}]
    (tmp_path / "stream.json").write_text(json.dumps(forth))
    assert len(load_index(tmp_path / "forth", tmp_path / "stream.json", "error").images) == 2
    with pytest.raises(UserError, match="begins with labels"):
        stream_to_coco([whole[0][1]], tmp_path / "broken")


@given(st.lists(st.lists(st.binary(max_size=9), min_size=1, max_size=4), max_size=4))
def test_records_come_back_whole_however_they_were_cut(records: list[list[bytes]]) -> None:
    stream = io.BytesIO(b"".join(record(*parts) for parts in records))
    assert list(read_records(stream, "it")) == [struct.pack("<I", 0xCED7230A).join(parts) for parts in records]


def test_streams_that_are_cut_off_or_of_another_kind_are_refused() -> None:
    framed = record(b"a picture")
    for cut in (4, 10, len(framed) - 4):
        with pytest.raises(UserError, match="train_0 ends within a record"):
            list(read_records(io.BytesIO(framed[:cut]), "train_0"))
    with pytest.raises(UserError, match="ends within a record"):
        list(read_records(io.BytesIO(record(b"first", b"last")[:16]), "train_0"))
    with pytest.raises(UserError, match=r"is not RecordIO .*RecordWrapperType"):
        list(read_records(io.BytesIO(b"\xff\xd8\xff\xe0 a bare picture"), "train_0"))
