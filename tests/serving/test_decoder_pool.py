"""Decoding in other processes: same pixels, limits on memory and time, and replacement of processes that die."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from serving_client import encode, make_image

from frcnn.data.decode import decode_image
from frcnn.serving.batching import DeadlineExceeded
from frcnn.serving.decoder_pool import DecoderPool
from frcnn.serving.request_error import RequestError

CPU_SECONDS = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(size=1, max_pixels=2_000_000, max_body=16 << 20, cpu_seconds=CPU_SECONDS)
    yield pool
    pool.close()


def soon() -> float:
    return time.monotonic() + 60


def process_of(pool: DecoderPool) -> int:
    return pool._decoders[0]._process.pid


def deep_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 60 * 90).reshape(60, 90).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "encoded",
    [encode(make_image(), "PNG"), encode(make_image(1200, 900), "JPEG"), encode(make_image(), "WEBP"), deep_png()],
    ids=["PNG", "JPEG", "WEBP", "16 bits"],
)
def test_pixels_are_those_of_the_decoder_of_training(pool: DecoderPool, encoded: bytes) -> None:
    np.testing.assert_array_equal(pool.decode(encoded, soon()), decode_image(encoded))


@pytest.mark.parametrize(
    ("encoded", "status", "reason"),
    [
        (b"", 400, "not an image of a known format; expected JPEG, PNG, WEBP"),
        (encode(make_image())[:100], 400, "the image cannot be decoded"),
        (encode(make_image(2000, 1001)), 413, "the image has 2000 x 1001 pixels; the maximum is 2,000,000"),
    ],
)
def test_errors(pool: DecoderPool, encoded: bytes, status: int, reason: str) -> None:
    process = process_of(pool)
    with pytest.raises(RequestError, match=reason) as error:
        pool.decode(encoded, soon())
    assert error.value.status == status
    assert process_of(pool) == process


COMMENT, PLAIN_TEXT = b"!\xfe", b"!\x01"  # extensions of a GIF


def gif_with_extension(kind: bytes, block: bytes, count: int) -> bytes:
    """A GIF with an extension of many blocks, which Pillow reads one by one in Python; those of comments it keeps."""
    gif = encode(make_image(8, 8), "GIF")
    image = 13 + (3 << (gif[10] & 7) + 1)  # behind the header and the global color table
    return gif[:image] + kind + block * count + b"\0" + gif[image:]


def test_a_file_that_takes_too_much_cpu_time_is_given_up(pool: DecoderPool) -> None:
    process = process_of(pool)
    with pytest.raises(RequestError, match=f"takes more than {CPU_SECONDS} s of CPU time") as error:
        pool.decode(gif_with_extension(PLAIN_TEXT, b"\x01a", 20_000_000), soon())
    assert error.value.status == 413
    np.testing.assert_array_equal(pool.decode(encode(make_image()), soon()), make_image())
    assert process_of(pool) != process


def test_a_file_that_takes_too_much_memory_is_given_up(pool: DecoderPool) -> None:
    with pytest.raises(RequestError, match="too much memory") as error:
        pool.decode(gif_with_extension(COMMENT, b"\x02ab", 5_000_000), soon())
    assert error.value.status == 413
    np.testing.assert_array_equal(pool.decode(encode(make_image()), soon()), make_image())


def test_a_process_that_dies_is_replaced(pool: DecoderPool) -> None:
    os.kill(process_of(pool), signal.SIGKILL)
    time.sleep(0.1)
    np.testing.assert_array_equal(pool.decode(encode(make_image()), soon()), make_image())


def test_a_process_that_hangs_is_visible_and_replaced_at_the_deadline(pool: DecoderPool) -> None:
    os.kill(process_of(pool), signal.SIGSTOP)
    assert pool.busy_for() == 0
    busy: list[float] = []
    watcher = threading.Timer(0.5, lambda: busy.append(pool.busy_for()))
    watcher.start()
    with pytest.raises(DeadlineExceeded):
        pool.decode(encode(make_image()), time.monotonic() + 1)
    watcher.join()
    assert 0.2 < busy[0] < 1.2
    np.testing.assert_array_equal(pool.decode(encode(make_image()), soon()), make_image())


def test_a_pool_without_an_idle_process_keeps_to_the_deadline(pool: DecoderPool) -> None:
    os.kill(process_of(pool), signal.SIGSTOP)

    def occupy() -> None:
        with contextlib.suppress(DeadlineExceeded):
            pool.decode(b"x", time.monotonic() + 1)

    first = threading.Thread(target=occupy)
    first.start()
    time.sleep(0.2)
    with pytest.raises(DeadlineExceeded):
        pool.decode(encode(make_image()), time.monotonic() + 0.2)
    first.join()


def test_processes_end_with_the_pool_and_with_its_owner() -> None:
    pool = DecoderPool(size=2, max_pixels=100, max_body=100, cpu_seconds=1)
    processes = [decoder._process for decoder in pool._decoders]
    for pipe in (processes[0].stdin, processes[0].stdout):  # what the kernel does when the worker dies
        assert pipe is not None
        pipe.close()
    assert processes[0].wait(60) == 0
    pool.close()
    assert processes[1].poll() is not None
