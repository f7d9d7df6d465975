"""Reports of training steps, read while the device computes the next step.

On a GPU a step's call returns when its kernels are enqueued, and only reading a result waits for them. TensorFlow
copies a tensor to the host after everything that was enqueued before the copy, so a report that is requested after the
call of the next step would wait for that step too. A thread therefore requests each report at once, and the loop takes
it one step later, when it has usually arrived. On a CPU a call returns when the step is finished.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from frcnn import ops
from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.distributed import AgreedError, World
from frcnn.errors import UserError
from frcnn.training.optimizer import scales_loss
from frcnn.training.step import LOSSES, non_finite_message, out_of_memory_message

TrainStep = Callable[[Batch, tf.Tensor, tf.Tensor], tf.Tensor]
NAMES = (*LOSSES, "loss", "gradient_norm")


class StepReport(NamedTuple):
    """What a step tells the loop; losses and flags are equal on all ranks.

    Attributes:
        step: steps taken, this one included.
        losses: the losses, their sum ``loss`` and ``gradient_norm``.
        flags: those that the ranks gave to the step, summed.
        learning_rate: the value given to :meth:`StepReports.start`.
    """

    step: int
    losses: dict[str, float]
    flags: list[float]
    learning_rate: Any


class _Unread(NamedTuple):
    step: int
    image_shape: tf.TensorShape
    image_ids: tf.Tensor
    learning_rate: Any
    values: Callable[[], np.ndarray]


class StepReports:
    """Starts steps and returns their reports in order.

    Args:
        train_step: see ``step.py``.

    Attributes:
        lag: number of the newest steps whose reports :meth:`read` leaves to later. The same on all ranks, because they
            decide by what they read: 1 if some rank has a GPU, else 0.
    """

    def __init__(self, train_step: TrainStep, config: Config, world: World) -> None:
        self.lag = world.allreduce_max(int(ops.uses_gpu()))
        self.train_step = train_step
        self._world = world
        # Float16 gradients overflow now and then; the optimizer skips these steps.
        self._may_overflow = scales_loss(config)
        self._unread: deque[_Unread] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._compiled: set[tuple[int, int]] = set()

    def compiling(self, batch: Batch) -> str:
        """What :meth:`start` does first, which takes a while; empty if the step was compiled for this canvas before."""
        height, width = batch.images.shape[1:3]
        return "" if (height, width) in self._compiled else f"compiling the step for {height} x {width}"

    def start(self, batch: Batch, step: int, flags: Sequence[float], learning_rate: Any) -> None:
        """Start a step after ``step`` steps.

        Raises:
            UserError: out of memory.
        """
        if self.lag and not self._thread:
            self._thread = ThreadPoolExecutor(1, "step report")
        with tf.device("CPU:0"):  # an eager copy to a GPU waits for all work enqueued there
            number, told = tf.constant(step), tf.constant([float(flag) for flag in flags])
        try:
            report = self.train_step(batch, number, told)
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(out_of_memory_message(error, step, batch.images.shape)) from None
        self._compiled.add(tuple(batch.images.shape[1:3]))
        values = self._thread.submit(report.numpy).result if self._thread else report.numpy
        # Not the batch itself, whose images would stay in memory.
        self._unread.append(_Unread(step, batch.images.shape, batch.image_ids, learning_rate, values))

    def read(self, all_steps: bool) -> Iterator[StepReport]:
        """Yield the reports that were not read yet, except for the newest ``lag`` unless ``all_steps``.

        Raises:
            AgreedError: the loss or the gradient of a step is not finite. That step was not applied, but the one after
                it may have been: nothing may be saved.
            UserError: out of memory.
        """
        while len(self._unread) > (0 if all_steps else self.lag):
            unread = self._unread.popleft()
            values = self._wait_for(unread)
            losses, flags = dict(zip(NAMES, values, strict=False)), values[len(NAMES) :]
            norm_is_valid = self._may_overflow or math.isfinite(losses["gradient_norm"])
            if not (math.isfinite(losses["loss"]) and norm_is_valid):
                for later in self._unread:  # no step may be running during a collective operation
                    self._wait_for(later)
                images = [int(number) for (ids,) in self._world.allgather([unread.image_ids.numpy()]) for number in ids]
                raise AgreedError(non_finite_message(unread.step, losses, images))
            yield StepReport(unread.step + 1, losses, flags, unread.learning_rate)

    def _wait_for(self, unread: _Unread) -> list[float]:
        try:
            return list(unread.values().tolist())
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(out_of_memory_message(error, unread.step, unread.image_shape)) from None
