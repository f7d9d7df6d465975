"""Watchdog that aborts a run in which a rank makes no progress, and names the rank.

Collective operations wait forever, so one rank that hangs, or that the system froze, silently stops all. A thread of
every rank therefore sends a heartbeat to rank 0 every few seconds, and rank 0, which works alone at times, sends one to
all others. Horovod's own stall check cannot do this: it needs an answer from the frozen process.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from frcnn.distributed.world import World
from frcnn.errors import EXIT_FAILURE, print_message

# Added to the limit before the second step: reading data, building the model and tracing send no ticks.
START_SECONDS = 1800.0
STARTED = 2  # ticks: the second step has begun
GRACE_SECONDS = 30.0  # for rank 0 to abort the run, before the others conclude that rank 0 itself hangs


@dataclass
class Stalls:
    """Decides from the heartbeats of all ranks whether the run is stalled; all times are seconds of one clock.

    Attributes:
        limit: the run is stalled when no rank makes progress for this long.
    """

    size: int
    limit: float
    now: float
    reports: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._progressed = self.now
        self._last_seen = dict.fromkeys(range(self.size), self.now)

    def update(self, reports: dict[int, tuple[int, int]], now: float) -> None:
        """Process the received ``(stage, ticks)`` by rank."""
        for rank, report in reports.items():
            if self.reports.get(rank) != report:
                self._progressed = now
            self.reports[rank] = report
            self._last_seen[rank] = now

    def stalled_ranks(self, now: float) -> list[int]:
        """Ranks that the others wait for; empty while the run is not stalled.

        A rank without heartbeats is frozen. If all send heartbeats, the ranks at the earliest stage block the others.
        """
        # No rank finishes a step before all do, so the most advanced report also holds for ranks whose last one is
        # older.
        starting = max((ticks for _, ticks in self.reports.values()), default=0) < STARTED
        if now - self._progressed < self.limit + (START_SECONDS if starting else 0.0):
            return []
        silent = [rank for rank, seen in self._last_seen.items() if now - seen > self.limit / 2]
        if silent:
            return silent
        earliest = min(stage for stage, _ in self.reports.values())
        return [rank for rank, (stage, _) in self.reports.items() if stage == earliest]


class Watchdog:
    """Aborts the run when no rank makes progress for ``limit`` seconds; does nothing in a world of one process.

    Attributes:
        stage: the collective operation that this rank is working towards, the same number on all ranks: the step.
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
        """Report progress."""
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
            received, now = self._world.receive_heartbeats(), time.monotonic()
            if self._world.is_main:
                stalls.update(received, now)
                if stalled_ranks := stalls.stalled_ranks(now):
                    self._abort(stalled_ranks)
            elif self._ticks != ticks or received.get(0, of_rank_0) != of_rank_0:
                ticks, of_rank_0, changed = self._ticks, received.get(0, of_rank_0), now
            elif now - changed > self._limit + GRACE_SECONDS + (START_SECONDS if ticks < STARTED else 0.0):
                self._abort([0])

    def _abort(self, stalled_ranks: list[int]) -> None:
        names = ", ".join(map(self._world.name_of, stalled_ranks))
        print_message(
            f"{names}: no progress for {self._limit:g} seconds (option distributed.stall_minutes) at step {self.stage}"
            "; aborting the run. Rerun the same command to resume from the last checkpoint"
        )
        self._world.abort(EXIT_FAILURE)
