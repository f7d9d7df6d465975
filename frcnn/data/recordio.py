"""Reader for MXNet RecordIO, the framing in which SageMaker's Pipe mode streams augmented manifests.

A record consists of one or more chunks, little endian: a magic number, a word with the payload length in its low 29
bits and the chunk's position in the record in its top 3, and the payload, padded to four bytes (dmlc-core,
``include/dmlc/recordio.h``).
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
    """Yield the payloads of a stream in order.

    The writer splits a record wherever its payload contains the magic number and drops the number; it is inserted
    again.

    Args:
        stream: opened for binary reading.
        name: what messages call the stream.

    Raises:
        UserError: the stream is not RecordIO, or is truncated.
    """
    chunks: list[bytes] = []
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise UserError(f"{name} is truncated: it ends within a record")
        magic, word = _HEADER.unpack(header)
        if magic != MAGIC:
            raise UserError(
                f"{name} is not RecordIO (found {magic:#010x}, expected the magic number {MAGIC:#010x}); "
                "set RecordWrapperType to RecordIO"
            )
        position, length = word >> 29, word & (1 << 29) - 1
        payload = stream.read(length + -length % 4)
        if len(payload) < length:
            raise UserError(f"{name} is truncated: it ends within a record")
        chunks.append(payload[:length])
        if position in (WHOLE, END):
            yield struct.pack("<I", MAGIC).join(chunks)
            chunks = []
    if chunks:
        raise UserError(f"{name} is truncated: it ends within a record")
