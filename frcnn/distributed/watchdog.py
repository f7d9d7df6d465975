"""Ending a run in which a rank makes no progress, and saying which.

Collectives wait for ever, so a rank that hangs, or that the system froze, silently stops all. Every rank therefore tells
rank 0 every few seconds how far it is, from a thread of its own, and rank 0, which works alone at times, tells all the others.
Horovod's own check cannot do this: it needs the frozen process's answer.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from frcnn.distributed.world import World
from frcnn.errors import EXIT_FAILURE, print_message

START_SECONDS = (
    1800.0  # beyond the limit for what precedes the second step: reading data, building, tracing, none of which reports
)
STARTED = 2  # ticks: the second step has begun
GRACE_SECONDS = 30.0  # what rank 0 gets to end the run before others conclude that it is the one that hangs


@dataclass
class Stalls:
    """Judges the reports of all ranks; times are seconds of one clock.

    Attributes:
        limit: without any rank's progress for this long, the run is stalled.
    """

    size: int
    limit: float
    now: float
    reports: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._progressed = self.now
        self._heard = dict.fromkeys(range(self.size), self.now)

    def hear(self, reports: dict[int, tuple[int, int]], now: float) -> None:
        """Take in ``(stage, ticks)`` by rank."""
        for rank, report in reports.items():
            if self.reports.get(rank) != report:
                self._progressed = now
            self.reports[rank] = report
            self._heard[rank] = now

    def stalled_ranks(self, now: float) -> list[int]:
        """Ranks that the others wait for; none while the run is not stalled.

        A rank that stopped reporting is frozen. Else those at the earliest stage keep the others waiting.
        """
        # A step ends on no rank before it ends on all, so the furthest tells about those whose last report is older.
        starting = max((ticks for _, ticks in self.reports.values()), default=0) < STARTED
        if now - self._progressed < self.limit + (START_SECONDS if starting else 0.0):
            return []
        silent = [rank for rank, heard in self._heard.items() if now - heard > self.limit / 2]
        if silent:
            return silent
        earliest = min(stage for stage, _ in self.reports.values())
        return [rank for rank, (stage, _) in self.reports.items() if stage == earliest]


class Watchdog:
    """Ends the run where no rank makes progress for ``limit`` seconds. Alone, it does nothing.

    Attributes:
        stage: the collective that this rank works towards, the same number on all ranks: the step.
    """

    def __init__(self, world: World, limit: float) -> None:
        self.stage = 0
        self._ticks = 0
        self._world = world
        self._limit = limit
        self._ended = threading.Event()
        if world.size > 1:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def tick(self, stage: int | None = None) -> None:
        """Something got done."""
        self.stage = self.stage if stage is None else stage
        self._ticks += 1

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        stalls = Stalls(self._world.size, self._limit, time.monotonic())
        ticks, of_rank_0, changed = -1, None, time.monotonic()
        while not self._ended.wait(min(5.0, self._limit / 4)):
            self._world.send_heartbeat(self.stage, self._ticks)
            heard, now = self._world.receive_heartbeats(), time.monotonic()
            if self._world.is_main:
                stalls.hear(heard, now)
                if stalled_ranks := stalls.stalled_ranks(now):
                    self._end_run(stalled_ranks)
            elif self._ticks != ticks or heard.get(0, of_rank_0) != of_rank_0:
                ticks, of_rank_0, changed = self._ticks, heard.get(0, of_rank_0), now
            elif now - changed > self._limit + GRACE_SECONDS + (START_SECONDS if ticks < STARTED else 0.0):
                self._end_run([0])

    def _end_run(self, stalled_ranks: list[int]) -> None:
        names = ", ".join(map(self._world.name_of, stalled_ranks))
        print_message(
            f"{names}: no progress for {self._limit:g} seconds (option distributed.stall_minutes) at step {self.stage}, "
            "and the other ranks wait. The run is ended; the same command goes on from the last checkpoint"
        )
        self._world.abort(EXIT_FAILURE)
