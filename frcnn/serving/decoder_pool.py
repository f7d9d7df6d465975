"""Decodes images in other processes, which are killed when they take too long."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from frcnn.serving.batching import DeadlineExceeded
from frcnn.serving.decoder_process import OK, REQUEST, RESPONSE
from frcnn.serving.request_error import RequestError

PIPE_SIZE = 1 << 20  # bytes; the kernel's default of 64 KiB takes many more switches between the processes


class DecoderPool:
    """A fixed number of decoder processes, restarted when they die.

    Args:
        size: number of processes.
        max_pixels: maximum pixels of an image.
        max_body: maximum bytes of an encoded image.
        cpu_seconds: maximum CPU time of decoding one image.
    """

    def __init__(self, size: int, max_pixels: int, max_body: int, cpu_seconds: int) -> None:
        self._cpu_seconds = cpu_seconds
        arguments = [str(number) for number in (max_pixels, max_body, cpu_seconds)]
        self._command = [sys.executable, "-m", "frcnn.serving.decoder_process", *arguments]
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        self._decoders = [_Decoder(self._command) for _ in range(size)]
        for decoder in self._decoders:
            self._idle.put(decoder)

    def decode(self, encoded: bytes, deadline: float) -> np.ndarray:
        """Pixels ``[H, W, 3]`` uint8 of an image file, upright and RGB.

        Args:
            deadline: of ``time.monotonic``.

        Raises:
            RequestError: 400, damaged; 413, too many pixels, or takes too much memory or time.
            DeadlineExceeded: there was no time left.
        """
        try:
            decoder = self._idle.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            raise DeadlineExceeded from None
        try:
            return decoder.decode(encoded, deadline)
        except BrokenPipeError:
            if decoder.died_of(signal.SIGXCPU):
                reason = f"decoding the image takes more than {self._cpu_seconds} s of CPU time"
                raise RequestError(413, f"{reason}; send it smaller or in a simpler encoding") from None
            raise RequestError(400, "the image cannot be decoded: it makes the decoder fail") from None
        finally:
            self._idle.put(decoder)

    def busy_for(self) -> float:
        """Seconds that the longest current decoding has been running; 0 if there is none."""
        return max(decoder.busy_for() for decoder in self._decoders)

    def close(self) -> None:
        """Kill the processes."""
        for decoder in self._decoders:
            decoder.kill()


class _Decoder:
    """One decoder process and its pipes; started again by the next :meth:`decode` after it died."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._busy_since: float | None = None
        self._start()

    def decode(self, encoded: bytes, deadline: float) -> np.ndarray:
        """As :meth:`DecoderPool.decode`. Raises BrokenPipeError if the process dies."""
        if self._process.poll() is not None:
            self._start()
        self._busy_since = time.monotonic()
        complete = False
        try:
            self._write(REQUEST.pack(len(encoded)), deadline)
            self._write(encoded, deadline)
            status, height, width = RESPONSE.unpack(self._read(RESPONSE.size, deadline))
            content = self._read(height * width * 3 if status == OK else height, deadline)
            complete = True
        finally:
            self._busy_since = None
            if not complete:  # the next image would get the rest of this one's response
                self.kill()
        if status != OK:
            raise RequestError(status, content.decode(errors="replace"))
        return np.frombuffer(content, np.uint8).reshape(height, width, 3)

    def busy_for(self) -> float:
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def died_of(self, number: signal.Signals) -> bool:
        return self._process.wait() == -number

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with contextlib.suppress(OSError):
                pipe.close()

    def _start(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # numpy starts a thread per core, for nothing here
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._responses = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._requests, self._responses):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError):  # more than an unprivileged user may have
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[_when_ready(os.write, self._requests, rest, select.POLLOUT, deadline) :]

    def _read(self, size: int, deadline: float) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            read = _when_ready(_read_into, self._responses, rest, select.POLLIN, deadline)
            if not read:
                raise BrokenPipeError
            rest = rest[read:]
        return content


def _read_into(pipe: int, buffer: memoryview) -> int:
    return os.readv(pipe, [buffer])


def _when_ready(
    operation: Callable[[int, memoryview], int], pipe: int, buffer: memoryview, event: int, deadline: float
) -> int:
    """Result of an operation on a non-blocking pipe, tried again each time the pipe becomes ready.

    Raises:
        DeadlineExceeded: it did not become ready in time.
    """
    poll = select.poll()
    poll.register(pipe, event)
    while True:
        try:
            return operation(pipe, buffer)
        except BlockingIOError:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceeded from None
            poll.poll(remaining * 1000)
