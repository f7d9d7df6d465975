"""Which ranks are named in a stall; real frozen processes are in test_failures.py."""

from __future__ import annotations

from frcnn.distributed.watchdog import Stalls


def stalled(stalls: Stalls, now: float, *stages: tuple[int, int] | None) -> list[int]:
    stalls.update({rank: report for rank, report in enumerate(stages) if report}, now)
    return stalls.stalled_ranks(now)


def test_progress_of_any_rank_keeps_the_run_alive() -> None:
    stalls = Stalls(size=2, limit=10, now=0)
    for second in range(0, 100, 5):
        assert stalled(stalls, second, (second, second), (0, 0)) == []


def test_rank_that_stopped_reporting_is_named() -> None:
    stalls = Stalls(size=3, limit=10, now=0)
    assert stalled(stalls, 1, (7, 7), (7, 7), (7, 7)) == []
    for second in range(2, 11):
        assert stalled(stalls, second, (7, 7), None, (7, 7)) == []
    assert stalled(stalls, 11, (7, 7), None, (7, 7)) == [1]


def test_rank_that_hangs_before_the_others_collective_is_named() -> None:
    """It still reports, from its other thread: it is at an earlier step than those that wait."""
    stalls = Stalls(size=3, limit=10, now=0)
    for second in range(1, 11):
        assert stalled(stalls, second, (8, 8), (8, 8), (7, 9)) == []
    assert stalled(stalls, 11, (8, 8), (8, 8), (7, 9)) == [2]


def test_the_start_may_take_longer() -> None:
    """Reading the data and tracing the first step send no ticks; a rank without any heartbeat is named in the end."""
    stalls = Stalls(size=2, limit=10, now=0)
    for second in range(1, 1810, 5):
        assert stalled(stalls, second, (500, 1), (500, 1) if second < 100 else None) == []
    assert stalled(stalls, 1812, (500, 1)) == [1]


def test_the_start_is_over_for_all_when_one_rank_is_past_it() -> None:
    """No rank ends the first step alone. A rank that froze right after it last reported from before, or not at all."""
    stalls = Stalls(size=3, limit=10, now=0)
    for second in range(1, 11):
        assert stalled(stalls, second, (3, 3), (1, 1) if second == 1 else None) == []
    assert stalled(stalls, 11, (3, 3)) == [1, 2]


def test_all_ranks_are_named_when_all_wait_for_each_other() -> None:
    stalls = Stalls(size=2, limit=10, now=0)
    for second in range(1, 11):
        assert stalled(stalls, second, (4, 4), (4, 5)) == []
    assert stalled(stalls, 11, (4, 4), (4, 5)) == [0, 1]
