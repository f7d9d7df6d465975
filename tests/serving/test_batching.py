"""Batches: which images share one, in which order, and what happens on deadlines, failures and a full queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.inference import Detections, Prepared
from frcnn.serving.batching import Batcher, DeadlineExceeded, Outcome, QueueFull
from frcnn.serving.engine import batch_sizes

FOREVER = float("inf")


class Model:
    """Records its batches, blocks while its gate is closed, and fails on a batch with a negative image."""

    def __init__(self, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, images: Sequence[Prepared]) -> list[Detections]:
        names = [int(image.canvas[0, 0, 0]) for image in images]
        assert len({image.canvas.shape for image in images}) == 1
        self.entered.release()
        assert self.gate.wait(30)
        self.batches.append(names)
        if any(name < 0 for name in names):
            raise ArithmeticError("negative image")
        return [Detections(np.zeros((0, 4)), np.zeros(0), np.full(1, name)) for name in names]


def prepared(name: int, canvas: tuple[int, int] = (2, 3)) -> Prepared:
    return Prepared(np.full((*canvas, 3), name, np.float32), np.array(canvas), canvas)


def blocked_batcher(model: Model, sizes: Sequence[int] = (1, 2, 4), capacity: int = 100, **options: object) -> Batcher:
    """A batcher whose thread is busy with image 0 until the model's gate opens."""
    batcher = Batcher(model, sizes, 0.0, capacity, **options)  # type: ignore[arg-type]
    batcher.submit(prepared(0), FOREVER)
    assert model.entered.acquire(timeout=30)
    return batcher


def name_of(future: Future[Outcome]) -> int:
    return int(future.result(30).detections.labels[0])


def test_queued_images_run_together_by_canvas_in_traced_sizes() -> None:
    model = Model(open_gate=False)
    batcher = blocked_batcher(model)
    wide, tall = (2, 3), (3, 2)
    futures = [batcher.submit(prepared(n, tall if n in (3, 5) else wide), FOREVER) for n in range(1, 10)]
    assert batcher.depth() == 9
    model.gate.set()
    assert [name_of(future) for future in futures] == list(range(1, 10))
    # The oldest image's canvas first; seven wide ones are batches of 4 + 2 + 1.
    assert model.batches == [[0], [1, 2, 4, 6], [3, 5], [7, 8], [9]]
    assert [future.result().batch_size for future in futures] == [4, 4, 2, 4, 2, 4, 2, 2, 1]
    batcher.close()


@given(st.lists(st.sampled_from([(2, 3), (3, 2), (4, 4)]), max_size=20), st.integers(1, 6))
def test_every_image_gets_its_own_result(canvases: list[tuple[int, int]], largest: int) -> None:
    model = Model()
    batcher = Batcher(model, batch_sizes(largest), 0.001, 100)
    futures = [batcher.submit(prepared(number, canvas), FOREVER) for number, canvas in enumerate(canvases)]
    assert [name_of(future) for future in futures] == list(range(len(canvases)))
    batcher.close()
    assert {len(batch) for batch in model.batches} <= set(batch_sizes(largest))
    for canvas in set(canvases):  # first in, first out within a canvas
        order = [name for batch in model.batches for name in batch if canvases[name] == canvas]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])],
)
def test_batch_sizes(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


def test_an_image_waits_only_for_one_that_is_being_decoded() -> None:
    model = Model()
    batcher = Batcher(model, (1, 2), 30.0, 100)
    assert name_of(batcher.submit(prepared(1), FOREVER)) == 1  # at once: nothing is being decoded
    with batcher.decoding():
        first = batcher.submit(prepared(2), FOREVER)
        assert model.batches == [[1]]
        second = batcher.submit(prepared(3), FOREVER)
        assert (name_of(first), name_of(second)) == (2, 3)
    with batcher.decoding():
        third = batcher.submit(prepared(4), FOREVER)
    assert name_of(third) == 4  # the one that was being decoded never arrived
    assert model.batches == [[1], [2, 3], [4]]
    batcher.close()


def test_an_image_that_fails_does_not_fail_its_batch() -> None:
    model = Model(open_gate=False)
    failures: list[int] = []
    batcher = blocked_batcher(model, on_failure=lambda: failures.append(1))
    futures = [batcher.submit(prepared(name), FOREVER) for name in (1, -2, 3, 4)]
    model.gate.set()
    assert [name_of(futures[place]) for place in (0, 2, 3)] == [1, 3, 4]
    with pytest.raises(ArithmeticError, match="negative image"):
        futures[1].result(30)
    assert failures == [1]
    assert name_of(batcher.submit(prepared(5), FOREVER)) == 5
    batcher.close()


def test_a_full_queue_rejects_images() -> None:
    model = Model(open_gate=False)
    batcher = blocked_batcher(model, capacity=2)
    waiting = [batcher.submit(prepared(name), FOREVER) for name in (1, 2)]
    with pytest.raises(QueueFull):
        batcher.submit(prepared(3), FOREVER)
    assert waiting[0].cancel()
    model.gate.set()
    assert name_of(waiting[1]) == 2
    batcher.close()
    with pytest.raises(QueueFull):
        batcher.submit(prepared(4), FOREVER)
    assert model.batches == [[0], [2]]


def test_an_image_past_its_deadline_is_not_run() -> None:
    now = [100.0]
    model = Model(open_gate=False)
    batcher = blocked_batcher(model, clock=lambda: now[0])
    late, in_time = batcher.submit(prepared(1), 105.0), batcher.submit(prepared(2), 106.0)
    now[0] = 105.5
    assert batcher.running_for() == 5.5
    model.gate.set()
    assert name_of(in_time) == 2
    with pytest.raises(DeadlineExceeded):
        late.result(30)
    batcher.close()
    assert batcher.running_for() == 0.0
    assert model.batches == [[0], [2]]


def test_close_runs_the_queued_images() -> None:
    model = Model(open_gate=False)
    batcher = blocked_batcher(model)
    futures = [batcher.submit(prepared(name), FOREVER) for name in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.gate.set()
    closing.join(30)
    assert [future.done() for future in futures] == [True] * 3


def test_wait_and_run_times_are_separate() -> None:
    now = [0.0]

    def run(images: Sequence[Prepared]) -> list[Detections]:
        now[0] += 2.0
        return [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0)) for _ in images]

    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    model = Batcher(run, (1,), 0.0, 10, clock=clock)
    with model.decoding():
        outcome = model.submit(prepared(1), FOREVER).result(30)
    assert (outcome.wait_seconds, outcome.run_seconds, outcome.batch_size) == (0.0, 2.0, 1)
    model.close()
