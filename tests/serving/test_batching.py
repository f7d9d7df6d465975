"""What runs together, in which order, and what becomes of pictures that are late, poisonous or too many."""

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
    """Runs batches when it is let, remembers them, and fails where a picture of its batch is poisonous."""

    def __init__(self, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, pictures: Sequence[Prepared]) -> list[Detections]:
        names = [int(picture.canvas[0, 0, 0]) for picture in pictures]
        assert len({picture.canvas.shape for picture in pictures}) == 1
        self.entered.release()
        assert self.gate.wait(30)
        self.batches.append(names)
        if any(name < 0 for name in names):
            raise ArithmeticError("poison")
        return [Detections(np.zeros((0, 4)), np.zeros(0), np.full(1, name)) for name in names]


def prepared(name: int, canvas: tuple[int, int] = (2, 3)) -> Prepared:
    return Prepared(np.full((*canvas, 3), name, np.float32), np.array(canvas), canvas)


def held_up(model: Model, sizes: Sequence[int] = (1, 2, 4), capacity: int = 100, **options: object) -> Batcher:
    """A batcher whose thread is busy with picture 0 until the model's gate opens."""
    batcher = Batcher(model, sizes, 0.0, capacity, **options)  # type: ignore[arg-type]
    batcher.submit(prepared(0), FOREVER)
    assert model.entered.acquire(timeout=30)
    return batcher


def name_of(future: Future[Outcome]) -> int:
    return int(future.result(30).detections.labels[0])


def test_what_waits_runs_together_by_canvas_in_compiled_sizes() -> None:
    model = Model(open_gate=False)
    batcher = held_up(model)
    wide, tall = (2, 3), (3, 2)
    futures = [batcher.submit(prepared(n, tall if n in (3, 5) else wide), FOREVER) for n in range(1, 10)]
    assert batcher.depth() == 9
    model.gate.set()
    assert [name_of(future) for future in futures] == list(range(1, 10))
    # The oldest picture's canvas first; seven wide ones are 4 + 2 + 1, and no batch has another size.
    assert model.batches == [[0], [1, 2, 4, 6], [3, 5], [7, 8], [9]]
    assert [future.result().batch_size for future in futures] == [4, 4, 2, 4, 2, 4, 2, 2, 1]
    batcher.close()


@given(st.lists(st.sampled_from([(2, 3), (3, 2), (4, 4)]), max_size=20), st.integers(1, 6))
def test_every_picture_gets_its_own_answer(canvases: list[tuple[int, int]], largest: int) -> None:
    model = Model()
    batcher = Batcher(model, batch_sizes(largest), 0.001, 100)
    futures = [batcher.submit(prepared(number, canvas), FOREVER) for number, canvas in enumerate(canvases)]
    assert [name_of(future) for future in futures] == list(range(len(canvases)))
    batcher.close()
    assert {len(batch) for batch in model.batches} <= set(batch_sizes(largest))
    for canvas in set(canvases):  # those of a canvas keep their order
        order = [name for batch in model.batches for name in batch if canvases[name] == canvas]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])],
)
def test_batch_sizes(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


def test_a_picture_waits_for_an_announced_one_and_for_no_other() -> None:
    model = Model()
    batcher = Batcher(model, (1, 2), 30.0, 100)
    assert name_of(batcher.submit(prepared(1), FOREVER)) == 1  # at once: nobody is on the way
    with batcher.decoding():
        first = batcher.submit(prepared(2), FOREVER)
        assert model.batches == [[1]]
        second = batcher.submit(prepared(3), FOREVER)
        assert (name_of(first), name_of(second)) == (2, 3)
    with batcher.decoding():
        third = batcher.submit(prepared(4), FOREVER)
    assert name_of(third) == 4  # what was announced did not come
    assert model.batches == [[1], [2, 3], [4]]
    batcher.close()


def test_a_poisonous_picture_harms_only_itself() -> None:
    model = Model(open_gate=False)
    failures: list[int] = []
    batcher = held_up(model, on_failure=lambda: failures.append(1))
    futures = [batcher.submit(prepared(name), FOREVER) for name in (1, -2, 3, 4)]
    model.gate.set()
    assert [name_of(futures[place]) for place in (0, 2, 3)] == [1, 3, 4]
    with pytest.raises(ArithmeticError, match="poison"):
        futures[1].result(30)
    assert failures == [1]
    assert name_of(batcher.submit(prepared(5), FOREVER)) == 5
    batcher.close()


def test_a_full_queue_takes_nothing() -> None:
    model = Model(open_gate=False)
    batcher = held_up(model, capacity=2)
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


def test_a_picture_whose_time_is_over_is_not_run() -> None:
    now = [100.0]
    model = Model(open_gate=False)
    batcher = held_up(model, clock=lambda: now[0])
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


def test_closing_runs_what_waits() -> None:
    model = Model(open_gate=False)
    batcher = held_up(model)
    futures = [batcher.submit(prepared(name), FOREVER) for name in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.gate.set()
    closing.join(30)
    assert [future.done() for future in futures] == [True] * 3


def test_waiting_and_running_are_told_apart() -> None:
    now = [0.0]

    def run(pictures: Sequence[Prepared]) -> list[Detections]:
        now[0] += 2.0
        return [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0)) for _ in pictures]

    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    model = Batcher(run, (1,), 0.0, 10, clock=clock)
    with model.decoding():
        outcome = model.submit(prepared(1), FOREVER).result(30)
    assert (outcome.waited, outcome.ran, outcome.batch_size) == (0.0, 2.0, 1)
    model.close()
