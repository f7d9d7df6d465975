"""Thread pools that end with the block that uses them."""

from __future__ import annotations

import threading

import pytest

from frcnn.data.threads import thread_pool


def test_results_are_complete() -> None:
    with thread_pool(2) as pool:
        results = pool.map(lambda number: number**2, range(100))
    assert list(results) == [number**2 for number in range(100)]


def test_an_exception_drops_queued_calls() -> None:
    started, finish = threading.Event(), threading.Event()
    calls: list[int] = []

    def call(number: int) -> None:
        calls.append(number)
        started.set()
        finish.wait()

    def interrupt() -> None:
        with thread_pool(1) as pool:
            pool.map(call, range(1000))
            started.wait()
            threading.Timer(0.05, finish.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert calls == [0]
