"""Reports of steps: their order, what is read when, and failures, with steps that only return numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.distributed import AgreedError, World
from frcnn.errors import UserError
from frcnn.training.reports import StepReports


def batch_of(*ids: int) -> Batch:
    images = tf.zeros([len(ids), 32, 64, 3])
    return Batch(images, *[tf.zeros([])] * 5, image_ids=tf.constant(ids, tf.int64))


def reports_of(step: Callable[..., tf.Tensor], lag: int) -> StepReports:
    reports = StepReports(step, Config(), World())
    assert reports.lag == 0  # no GPU here
    reports.lag = lag
    return reports


def losses_of_step(batch: Batch, step: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
    """Losses 10 s, ..., 10 s + 3, their sum and a norm for step s, and the flags."""
    losses = 10.0 * tf.cast(step, tf.float32) + tf.range(4.0)
    return tf.concat([losses, [tf.reduce_sum(losses), 0.5], flags], axis=0)


@pytest.mark.parametrize("lag", [0, 1])
def test_all_but_the_newest_reports_are_read_in_order(lag: int) -> None:
    reports = reports_of(losses_of_step, lag)
    read = []
    for step in range(4):
        reports.start(batch_of(1), step, (step == 2, 7), learning_rate=step / 100)
        read += reports.read(all_steps=False)
        assert len(read) == step + 1 - lag
    read += reports.read(all_steps=True)
    assert [report.step for report in read] == [1, 2, 3, 4]
    assert [report.losses["rpn_box"] for report in read] == [1, 11, 21, 31]
    assert [report.losses["loss"] for report in read] == [6, 46, 86, 126]
    assert [report.flags for report in read] == [[0, 7], [0, 7], [1, 7], [0, 7]]
    assert [report.learning_rate for report in read] == [0, 0.01, 0.02, 0.03]
    assert list(reports.read(all_steps=True)) == []


def test_starting_a_step_does_not_wait_for_the_one_before() -> None:
    finished = threading.Event()

    class Unfinished:
        def numpy(self) -> np.ndarray:
            assert finished.wait(60)
            return np.ones(6, np.float32)

    reports = reports_of(lambda *_: Unfinished(), lag=1)
    reports.start(batch_of(1), 0, (), None)
    reports.start(batch_of(1), 1, (), None)
    finished.set()
    assert [report.step for report in reports.read(all_steps=True)] == [1, 2]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("value", ["loss", "gradient_norm"])
def test_a_step_that_is_not_finite_is_named_with_its_images(lag: int, value: str) -> None:
    def step(batch: Batch, number: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        report = losses_of_step(batch, number, flags).numpy()
        report[4 if value == "loss" else 5] = np.nan if number == 1 else 1
        return tf.constant(report)

    reports = reports_of(step, lag)
    for number in range(2 + lag):
        reports.start(batch_of(2 * number + 1, 2 * number + 2), number, (), None)
        if number == 0:
            list(reports.read(all_steps=False))
    found = reports.read(all_steps=False)
    assert [next(found).step for _ in range(lag)] == [1] * lag
    with pytest.raises(AgreedError, match=rf"not finite at step 1 \(.*{value} nan.*\), images \[3, 4\]; nothing was"):
        next(found)


def test_the_first_step_of_a_canvas_is_compiled() -> None:
    reports, batch = reports_of(losses_of_step, lag=0), batch_of(1)
    assert reports.compiling(batch) == "compiling the step for 32 x 64"
    reports.start(batch, 0, (), None)
    assert reports.compiling(batch) == ""
    assert reports.compiling(batch._replace(images=tf.zeros([1, 64, 64, 3]))) == "compiling the step for 64 x 64"


@pytest.mark.parametrize("when", ["start", "read"])
def test_out_of_memory_names_the_step_and_its_batch(when: str) -> None:
    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    class Failing:
        def numpy(self) -> np.ndarray:
            raise error

    def step(*inputs: object) -> object:
        if when == "start":
            raise error
        return Failing()

    reports = reports_of(step, lag=1)

    def run() -> None:
        reports.start(batch_of(1, 2), 5, (), None)
        list(reports.read(all_steps=True))

    with pytest.raises(UserError, match=r"out of memory at step 5 with 2 images of 32 x 64 pixels .*OOM when alloc"):
        run()
