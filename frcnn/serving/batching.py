"""Pictures of one canvas run together: a bounded queue, a few milliseconds of patience, one thread that owns the model."""

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
    """No room for another picture now."""


class DeadlineExceeded(Exception):
    """The picture's turn came after its deadline."""


class Outcome(NamedTuple):
    """Detections of one picture, the seconds that it waited and ran, and how many ran with it."""

    detections: Detections
    waited: float
    ran: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    picture: Prepared
    deadline: float
    arrived: float
    outcome: Future[Outcome]

    @property
    def canvas(self) -> tuple[int, ...]:
        return self.picture.canvas.shape


class Batcher:
    """Runs pictures in the order of their arrival, the first one's canvas in each batch.

    A batch is as large as the largest of ``sizes`` that can be filled, so that nothing is computed for padding and every batch
    has a shape that was compiled before. It is not waited for what nobody has announced: the first picture waits only while
    another one is being decoded, and no longer than ``patience``.

    Args:
        run: detections of pictures of one canvas.
        sizes: batch sizes that ``run`` is prepared for; 1 is one of them.
        patience: seconds.
        capacity: pictures that wait at most.
        on_failure: called after a picture failed that ran alone, on the thread that runs.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        run: Run,
        sizes: Sequence[int],
        patience: float,
        capacity: int,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._sizes = sorted(sizes)
        self._patience = patience
        self._capacity = capacity
        self._on_failure = on_failure
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._announced = 0
        self._closed = False
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """While inside, a picture is on its way, and a batch may wait for it."""
        with self._changed:
            self._announced += 1
        try:
            yield
        finally:
            with self._changed:
                self._announced -= 1
                self._changed.notify()

    def submit(self, picture: Prepared, deadline: float) -> Future[Outcome]:
        """Queue a picture, to be started before ``deadline`` (of the clock).

        Returns:
            Future of an :class:`Outcome`, of :class:`DeadlineExceeded`, or of what the model raised. Cancelling it leaves the queue.

        Raises:
            QueueFull: as many pictures wait as may.
        """
        waiting = _Waiting(picture, deadline, self._clock(), Future())
        with self._changed:
            if len(self._waiting) >= self._capacity or self._closed:
                raise QueueFull
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.outcome

    def depth(self) -> int:
        """Pictures that wait."""
        return len(self._waiting)

    def running_for(self) -> float:
        """Seconds since the batch that runs was started; 0 where none runs."""
        since = self._running_since
        return 0.0 if since is None else self._clock() - since

    def close(self) -> None:
        """Take nothing more; what waits is still run."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._running_since = self._clock()
            try:
                # Where someone cancelled at the last moment, what is left may be no compiled batch size.
                if len(batch) in self._sizes:
                    self._run_batch(batch)
                else:
                    self._run_one_by_one(batch)
            finally:
                self._running_since = None

    def _next_batch(self) -> list[_Waiting] | None:
        """Pictures to run together, taken from the queue; None where closed and nothing waits."""
        with self._changed:
            while True:
                self._drop_late()
                if not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                same = [waiting for waiting in self._waiting if waiting.canvas == first.canvas][: self._sizes[-1]]
                patience = first.arrived + self._patience - self._clock()
                if len(same) < self._sizes[-1] and self._announced and patience > 0 and not self._closed:
                    self._changed.wait(patience)
                    continue
                batch = same[: max(size for size in self._sizes if size <= len(same))]
                for waiting in batch:
                    self._waiting.remove(waiting)
                return [waiting for waiting in batch if waiting.outcome.set_running_or_notify_cancel()]

    def _drop_late(self) -> None:
        now = self._clock()
        for waiting in [waiting for waiting in self._waiting if waiting.deadline <= now or waiting.outcome.cancelled()]:
            self._waiting.remove(waiting)
            if waiting.outcome.set_running_or_notify_cancel():
                waiting.outcome.set_exception(DeadlineExceeded())

    def _run_batch(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        try:
            found = self._run([waiting.picture for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                self._run_one_by_one(batch)  # the others must not suffer for one
                return
            batch[0].outcome.set_exception(error)
            self._on_failure()
            return
        ran = self._clock() - started
        for waiting, detections in zip(batch, found, strict=True):
            waiting.outcome.set_result(Outcome(detections, started - waiting.arrived, ran, len(batch)))

    def _run_one_by_one(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            self._run_batch([waiting])
