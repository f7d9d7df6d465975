"""The end of a run at a time of the clock: early enough for a last evaluation."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator

RECENT_STEPS = 50  # whose median is the time of a step
EVALUATION_MARGIN = 1.3  # the last evaluation may take longer than the one before by this factor


class TimeLimit:
    """Option ``training.max_minutes``. Only rank 0 asks it, so that all ranks end at the same step.

    The limit counts from the construction of the trainer, and continues when a run is resumed. It never changes
    a step: the learning rate is a function of the step and of ``training.epochs``, so a run that has more time after
    all resumes as if it had not been ended.

    Args:
        minutes: the limit; None: none.
        used: seconds that earlier parts of the run took.
        evaluation_images: images of the validation split.
        passes: evaluations at the end of the run, one after the other.
        clock: seconds.
    """

    def __init__(
        self,
        minutes: float | None,
        used: float,
        evaluation_images: int,
        passes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.minutes = minutes
        self._clock = clock
        self._start = clock() - used
        self._evaluation_images = evaluation_images
        self._passes = passes
        self._evaluation_started = 0.0
        self._evaluation_seconds: float | None = None
        self._step_started: float | None = None
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)  # seconds
        self._slowest = 0.0  # seconds of the slowest step, in which a canvas was traced

    def used(self) -> float:
        """Seconds since the start of the run."""
        return self._clock() - self._start

    def describe(self, step: int, total_steps: int) -> str:
        """The message of a run that it ends."""
        return f"training.max_minutes={self.minutes:.4g}: training ends at step {step}/{total_steps}"

    def left(self) -> float | None:
        """Seconds until the limit; None without one."""
        return None if self.minutes is None else 60 * self.minutes - self.used()

    def reached(self, batch_size: int, evaluates: bool = False) -> bool:
        """Count a step of ``batch_size`` images that is about to start; whether it is the last that there is time for.

        A step's time and the time of the last evaluations are kept in reserve. Until an evaluation was measured, an
        image of it is taken to cost as much as one of training, whose backward pass an evaluation does not have, and
        tracing the detector as much as tracing the training step of a canvas.

        Args:
            evaluates: an evaluation follows the step. If there is not time for it and the last ones as well, it becomes
                the last one.
        """
        now = self._clock()
        if self._step_started is not None:
            self._steps.append(now - self._step_started)
            self._slowest = max(self._slowest, self._steps[-1])
        self._step_started = now
        # Without the slowest one: the first step is traced, and its time says nothing about the others.
        step = statistics.median(sorted(self._steps)[:-1] or [0.0])
        if (left := self.left()) is None:
            return False
        evaluation, tracing = self._evaluation_seconds, 0.0
        if evaluation is None:
            evaluation = self._evaluation_images * step / batch_size
            tracing = self._slowest if self._evaluation_images else 0.0
        return left < 2 * step + tracing + EVALUATION_MARGIN * (self._passes + evaluates) * evaluation

    def can_repeat(self) -> bool:
        """Inside of :meth:`evaluating`: whether there is time for as much again as the evaluation took so far."""
        left = self.left()
        return left is None or left >= EVALUATION_MARGIN * (self._clock() - self._evaluation_started)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around an evaluation, which it measures."""
        self._evaluation_started = self._clock()
        yield
        self._evaluation_seconds = self._clock() - self._evaluation_started
        if self._step_started is not None:  # an evaluation is no part of the step before it
            self._step_started += self._evaluation_seconds
