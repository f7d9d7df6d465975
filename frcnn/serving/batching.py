"""Dynamic batching: a bounded queue of prepared images, and one thread that runs the model on those of one canvas."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from frcnn.inference import Detections, Prepared

Run = Callable[[Sequence[Prepared]], list[Detections]]


class QueueFull(Exception):
    """The queue holds as many images as it may."""


class DeadlineExceeded(Exception):
    """The deadline passed before the image was run."""


class Outcome(NamedTuple):
    """Detections of one image, the seconds it spent in the queue and in the model, and the size of its batch."""

    detections: Detections
    wait_seconds: float
    run_seconds: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _QueuedImage:
    image: Prepared
    deadline: float
    arrived: float
    outcome: Future[Outcome]

    @property
    def canvas(self) -> tuple[int, ...]:
        return self.image.canvas.shape


class Batcher:
    """Runs images in the order of arrival; a batch holds images that share the canvas of the oldest one.

    A batch has the largest of ``sizes`` that can be filled: nothing is computed for padding, and every batch has a
    shape that was traced at start-up. The oldest image waits for others only while some image is being decoded, and
    at most ``max_wait``.

    Args:
        run: detections of images of one canvas.
        sizes: batch sizes that ``run`` was traced for; must contain 1.
        max_wait: seconds.
        capacity: maximum number of queued images.
        on_failure: called on the inference thread after an image failed in a batch of its own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        run: Run,
        sizes: Sequence[int],
        max_wait: float,
        capacity: int,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._sizes = sorted(sizes)
        self._max_wait = max_wait
        self._capacity = capacity
        self._on_failure = on_failure
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_QueuedImage] = deque()
        self._decoding = 0
        self._closed = False
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Announce an image that is being decoded: inside this context a batch may wait for it."""
        with self._changed:
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify()

    def submit(self, image: Prepared, deadline: float) -> Future[Outcome]:
        """Queue an image, to be started before ``deadline`` (of the clock).

        Returns:
            Future with an :class:`Outcome`, or with :class:`DeadlineExceeded` or the model's exception. Cancelling it
            removes the image from the queue.

        Raises:
            QueueFull: the queue is at its capacity, or closed.
        """
        queued = _QueuedImage(image, deadline, self._clock(), Future())
        with self._changed:
            if len(self._queue) >= self._capacity or self._closed:
                raise QueueFull
            self._queue.append(queued)
            self._changed.notify()
        return queued.outcome

    def depth(self) -> int:
        """Number of queued images."""
        return len(self._queue)

    def running_for(self) -> float:
        """Seconds since the current batch started; 0 if none is running."""
        since = self._running_since
        return 0.0 if since is None else self._clock() - since

    def close(self) -> None:
        """Accept no more images, run the queued ones, and join the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._running_since = self._clock()
            try:
                # Cancellations at the last moment can leave a number of images that is no traced batch size.
                if len(batch) in self._sizes:
                    self._run_batch(batch)
                else:
                    self._run_one_by_one(batch)
            finally:
                self._running_since = None

    def _next_batch(self) -> list[_QueuedImage] | None:
        """Take the images to run together from the queue; None once closed and empty."""
        with self._changed:
            while True:
                self._drop_expired()
                if not self._queue:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                oldest = self._queue[0]
                same = [queued for queued in self._queue if queued.canvas == oldest.canvas][: self._sizes[-1]]
                max_wait = oldest.arrived + self._max_wait - self._clock()
                if len(same) < self._sizes[-1] and self._decoding and max_wait > 0 and not self._closed:
                    self._changed.wait(max_wait)
                    continue
                batch = same[: max(size for size in self._sizes if size <= len(same))]
                for queued in batch:
                    self._queue.remove(queued)
                return [queued for queued in batch if queued.outcome.set_running_or_notify_cancel()]

    def _drop_expired(self) -> None:
        now = self._clock()
        for queued in [queued for queued in self._queue if queued.deadline <= now or queued.outcome.cancelled()]:
            self._queue.remove(queued)
            if queued.outcome.set_running_or_notify_cancel():
                queued.outcome.set_exception(DeadlineExceeded())

    def _run_batch(self, batch: list[_QueuedImage]) -> None:
        started = self._clock()
        try:
            results = self._run([queued.image for queued in batch])
        except Exception as error:
            if len(batch) > 1:
                self._run_one_by_one(batch)  # only the image that causes the failure shall fail
                return
            batch[0].outcome.set_exception(error)
            self._on_failure()
            return
        run_seconds = self._clock() - started
        for queued, detections in zip(batch, results, strict=True):
            queued.outcome.set_result(Outcome(detections, started - queued.arrived, run_seconds, len(batch)))

    def _run_one_by_one(self, batch: list[_QueuedImage]) -> None:
        for queued in batch:
            self._run_batch([queued])
