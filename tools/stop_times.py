"""Measures how long a training run takes to stop after SIGTERM.

    python tools/stop_times.py --stops 20 --ranks 1 2 --json stops.json

Trains the small model of fault_injection.py with one process, and with two of a real mpirun (`frcnn launch`), and sends
SIGTERM at random moments: in start-up and tracing (a random time before the first step), in training, in an evaluation,
while a checkpoint is saved, and in the final report. Prints the seconds from the signal to the end of the last process.
The rest of the step in progress is part of them: a step of this model takes about 0.1 seconds.

A stop fails if it takes longer than --limit seconds, has another exit code than 143 (0 if the run was complete), prints
a stack trace, or leaves a process behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from faults import STEPS, Process, accept_interrupts, make_data

# Phase, line of the output after which it begins (None: the start), and seconds that it lasts at least (None: until the
# first step).
EPOCH = STEPS // 3
PHASES: tuple[tuple[str, str | None, float | None], ...] = (
    ("start-up and tracing", None, None),
    ("training", "train step={} ", 0.5),
    ("evaluation", f"checkpoint step={EPOCH}\n", 1.0),
    ("start-up and tracing", None, None),
    ("saving", f"train step={EPOCH} ", 0.05),
    ("final report", f"evaluation step={STEPS} ", 1.0),
)


@dataclass
class StopTimes:
    """Seconds by number of ranks and phase, and what must not happen."""

    data: Path
    limit: float
    seconds: dict[tuple[int, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    codes: dict[tuple[int, str], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)

    def seconds_to_first_step(self, folder: Path, ranks: int) -> float:
        started = time.monotonic()
        process = Process(folder, self.data, ranks=ranks)
        process.wait_until(lambda: "train step=1 " in process.text)
        seconds = time.monotonic() - started
        process.end(signal.SIGTERM)
        return seconds

    def stop(self, output: Path, ranks: int, phase: str, line: str | None, seconds: float, rng: random.Random) -> None:
        """Start a run and stop it in a phase."""
        process = Process(output, self.data, ranks=ranks)
        if line:
            process.wait_until(lambda: line in process.text)
        time.sleep(rng.uniform(0, seconds))
        started = time.monotonic()
        ended = process.end(signal.SIGTERM)
        taken = time.monotonic() - started
        if ended.code == 0 and "report: " in ended.text:  # it was over before
            return
        self.seconds[ranks, phase].append(taken)
        self.codes[ranks, phase][ended.code] += 1
        problems = [
            *([f"{taken:.1f} seconds"] if taken > self.limit else []),
            *([f"exit code {ended.code}"] if ended.code not in ((0,) if phase == "final report" else (143,)) else []),
            *(["a stack trace"] if ended.trace else []),
            *(f"process {left} is left" for left in remaining(output)),
        ]
        if problems:
            self.failures.append(f"{ranks} ranks, {phase}: {'; '.join(problems)}:\n{ended.text[-2000:]}")

    def table(self) -> Iterator[str]:
        """Lines of the result."""
        yield "| ranks | stopped in | stops | median s | longest s | exit codes |\n|---|---|---|---|---|---|"
        for (ranks, phase), values in self.seconds.items():
            codes = ", ".join(map(str, sorted(self.codes[ranks, phase])))
            middle, longest = statistics.median(values), max(values)
            yield f"| {ranks} | {phase} | {len(values)} | {middle:.1f} | {longest:.1f} | {codes} |"


def remaining(output: Path) -> list[int]:
    """Ids of the processes with this folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"output={output}".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # ended in this moment
            continue
    return found


def measure(times: StopTimes, folder: Path, ranks: int, stops: int, rng: random.Random) -> None:
    """Stop this many runs, in all phases in turns; a run that was over before its signal does not count."""
    start = times.seconds_to_first_step(folder / f"first-{ranks}", ranks)
    number = 0
    phases = cycle(PHASES)
    while sum(len(values) for (of, _), values in times.seconds.items() if of == ranks) < stops:
        number += 1
        phase, line, seconds = next(phases)
        output = folder / f"run{number}-{ranks}"
        line = line.format(rng.randrange(1, EPOCH)) if line else None
        times.stop(output, ranks, phase, line, start if seconds is None else seconds, rng)
        shutil.rmtree(output, ignore_errors=True)
        print(f"{ranks} ranks, {phase}: {times.seconds[ranks, phase][-1:]}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20, help="for each number of ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", type=float, default=5.0, help="seconds that a stop may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    accept_interrupts()
    with tempfile.TemporaryDirectory(prefix="frcnn-stops-") as name:
        folder = Path(name).resolve()
        times = StopTimes(make_data(folder / "shapes"), options.limit)
        with contextlib.suppress(KeyboardInterrupt):  # the table then has what was measured so far
            for ranks in options.ranks:
                measure(times, folder, ranks, options.stops, random.Random(options.seed))
    for failure in times.failures:
        print(failure, file=sys.stderr)
    print(*times.table(), sep="\n")
    print(f"\n{len(times.failures)} failures")
    if options.json:
        seconds = {f"{ranks} {phase}": values for (ranks, phase), values in times.seconds.items()}
        options.json.write_text(json.dumps({"seconds": seconds, "failures": times.failures}, indent=1) + "\n")
    return 1 if times.failures else 0


if __name__ == "__main__":
    sys.exit(main())
