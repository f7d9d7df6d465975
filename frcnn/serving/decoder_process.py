"""A process that decodes images from untrusted bytes: ``python -m frcnn.serving.decoder_process``.

Image decoders are large C libraries, and no check of a header bounds what they do with hostile bytes. This process
limits its memory and CPU time, so that a file that exceeds a limit costs the endpoint one process, which is replaced.

It reads ``REQUEST`` and the encoded image from standard input, and writes ``RESPONSE`` and the pixels, or a message, to
standard output. It exits at the end of its input, so that it never outlives the worker that started it.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
import warnings
from pathlib import Path

import numpy as np

from frcnn.data.decode import ImageTooLarge, UnreadableImage, decode_image
from frcnn.data.image_limits import BYTES_PER_PIXEL

REQUEST = struct.Struct("<Q")  # length of the encoded image
RESPONSE = struct.Struct("<HII")  # OK, height and width; or an HTTP status, length of the message and 0
OK = 200
EXTRA_MEMORY = 64 << 20  # bytes for the interpreter's own needs, besides the image


def main(max_pixels: int, max_body: int, cpu_seconds: int) -> None:
    requests, responses = _open_pipes()
    warnings.simplefilter("ignore")  # a file can provoke any number of them
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, _virtual_memory() + BYTES_PER_PIXEL * max_pixels + 3 * max_body + EXTRA_MEMORY)
    while header := requests.read(REQUEST.size):
        encoded = requests.read(*REQUEST.unpack(header))
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _limit(resource.RLIMIT_CPU, int(used) + 1 + cpu_seconds)
        for part in _decode(encoded, max_pixels):
            responses.write(part)
        responses.flush()


def _limit(kind: int, value: int) -> None:
    """Set a soft limit, or the hard one if that is lower."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _decode(encoded: bytes, max_pixels: int) -> tuple[bytes, bytes | memoryview]:
    """The two parts of the response."""
    status, message = 400, "the image cannot be decoded"
    try:
        pixels = decode_image(encoded, max_pixels=max_pixels, use_tensorflow=False)
        return RESPONSE.pack(OK, *pixels.shape[:2]), np.ascontiguousarray(pixels).data.cast("B")
    except ImageTooLarge as error:
        status, message = 413, str(error)
    except UnreadableImage as error:
        status, message = 400, str(error)
        if isinstance(error.__cause__, MemoryError):
            status, message = 413, "decoding the image takes too much memory"
    except MemoryError:
        status, message = 413, "decoding the image takes too much memory"
    text = message.encode(errors="replace")
    return RESPONSE.pack(status, len(text), 0), text


def _open_pipes() -> tuple[io.BufferedReader, io.BufferedWriter]:
    """Standard input and output, which nothing else in this process may use."""
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, responses  # type: ignore[return-value]


def _virtual_memory() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
