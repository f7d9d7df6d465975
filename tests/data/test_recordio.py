"""RecordIO framing: streams written here by the published format, cut at arbitrary places, truncated and foreign."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.data.recordio import read_records
from frcnn.errors import UserError


def record(*parts: bytes) -> bytes:
    """Frame a record as dmlc-core's writer does: flag 0 for a single chunk, otherwise 1, 2 …, 3."""
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    framed = b""
    for flag, part in zip(flags, parts, strict=True):
        framed += struct.pack("<II", 0xCED7230A, flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return framed


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
