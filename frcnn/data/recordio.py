"""MXNet's RecordIO framing, in which SageMaker's Pipe mode streams augmented manifests.

A part is a magic number, a word with the length in its low 29 bits and in the top 3 which part of a record it is, and the
payload, padded to four bytes; little endian. (dmlc-core, ``include/dmlc/recordio.h``.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from frcnn.errors import UserError

MAGIC = 0xCED7230A
WHOLE, START, MIDDLE, END = range(4)
_HEADER = struct.Struct("<II")


def read_records(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The payloads of a stream, in order, to its end.

    A record that contains the magic number itself was cut there when it was written; it is joined again.

    Raises:
        UserError: the stream is not RecordIO, or ends within a record.
    """
    parts: list[bytes] = []
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise UserError(f"{name} ends within a record; the stream was cut off")
        magic, word = _HEADER.unpack(header)
        if magic != MAGIC:
            raise UserError(
                f"{name} is not RecordIO (it has {magic:#010x} in place of a record's start); set RecordWrapperType to RecordIO"
            )
        part, length = word >> 29, word & (1 << 29) - 1
        payload = stream.read(length + -length % 4)
        if len(payload) < length:
            raise UserError(f"{name} ends within a record; the stream was cut off")
        parts.append(payload[:length])
        if part in (WHOLE, END):
            yield struct.pack("<I", MAGIC).join(parts)
            parts = []
    if parts:
        raise UserError(f"{name} ends within a record; the stream was cut off")
