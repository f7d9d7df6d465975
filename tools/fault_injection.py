"""Injects faults into a small training run and checks that it recovers, or says in a sentence why not.

    python tools/fault_injection.py --kills 20 --minutes 10 --json faults.json

Trains a small model on `frcnn make-shapes` once without faults. Then the same training is

* killed (SIGKILL) or stopped (SIGINT, SIGTERM, SIGUSR1) at random moments, several times before it may end;
* resumed after random damage to its newest checkpoints, model folder, metrics.jsonl and other outputs: flipped bits,
  truncated, emptied, deleted, replaced by a folder, a dangling link or other content;
* resumed after its disk ran full: a small tmpfs for root, otherwise a limit of the size of files.

Every trial must end with a model and a final checkpoint that are bit-identical to those without faults, or exit with 2
and messages that name what is damaged; never with a stack trace, and never with 0 and another result. Which faults are
injected follows from the seed; at which instruction a signal arrives does not. Trials run in parallel, because a run
uses one core most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from faults import STEPS, STOP_SIGNALS, Ended, Process, accept_interrupts, damage_path, hash_file, make_data, small_disk

FAULTS_PER_RUN = 5  # kills or signals before a run may end
DAMAGED_CHECKPOINT = ("manifest.json", "variables.index", "variables.data-00000-of-00001")
MODEL = ("weights.safetensors", "config.yaml", "labels.json", "metrics.json", "SHA256SUMS")
MODEL_FOLDERS = ("model", "checkpoints/model")  # the second is a copy
# Optional, or written again by each start.
OTHERS = ("metrics.jsonl", "tensorboard", "images", "config.yaml", "report", "checkpoints/best_detections.npz")
MiB = 1 << 20


def result(output: Path) -> dict[str, str]:
    """Hashes of what a finished run leaves; of the model's files those that do not name its folder."""
    hashes = json.loads((output / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())["sha256"]
    files = ("weights.safetensors", "labels.json")
    return {**hashes, **{name: hash_file(output / "model" / name) for name in files}}


@dataclass
class Injection:
    """The trials of a seed and their outcomes.

    Attributes:
        counts: faults by kind and outcome.
        runs: trials by kind.
        failures: what must not happen.
        missed_kills: kills for which a run was over too soon.
    """

    folder: Path
    seed: int
    data: Path = field(init=False)
    expected: dict[str, str] = field(init=False)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    missed_kills: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _folders: int = 0

    def prepare(self) -> None:
        """Train without faults; keep the results and a copy of a run that was stopped in its last epoch."""
        self.data = make_data(self.folder / "shapes")
        undisturbed = self.folder / "undisturbed"
        beside = Process(undisturbed, self.data)
        self.halfway = self.folder / "halfway"
        process = Process(self.halfway, self.data)
        process.wait_until(lambda: f"train step={STEPS - 3} " in process.text)
        ended, whole = process.end(signal.SIGTERM), beside.end()
        if (ended.code, whole.code) != (STOP_SIGNALS[signal.SIGTERM], 0):
            raise SystemExit(f"the runs without faults failed:\n{ended.text}\n{whole.text}")
        self.expected = result(undisturbed)

    def output(self, copy: bool = False) -> Path:
        with self._lock:
            self._folders += 1
            folder = self.folder / f"run{self._folders}"
        if copy:
            shutil.copytree(self.halfway, folder)
        return folder

    def count(self, kind: str, outcome: str, number: int = 1) -> None:
        with self._lock:
            self.counts.setdefault(kind, Counter())[outcome] += number

    def judge(self, kind: str, ended: Ended, output: Path, faults: int = 1, refusable: str | None = None) -> bool:
        """Count the outcome of a resumed run; True if it is one that may be.

        Args:
            refusable: text that the message of a refusal contains; None if the run must complete.
        """
        outcome, wrong = "bit-identical", ""
        if ended.trace:
            outcome, wrong = "stack trace", "a stack trace"
        elif ended.code == 2 and refusable and refusable in ended.text:
            outcome = "refused"
        elif ended.code:
            outcome, wrong = "failed", f"exit code {ended.code}"
        else:
            try:
                different = [name for name, value in result(output).items() if self.expected[name] != value]
            except (OSError, ValueError, KeyError) as error:
                different = [str(error)]
            if different:
                outcome, wrong = "another result", f"exit code 0 with another result ({', '.join(different)})"
        self.count(kind, outcome, faults)
        self.runs[kind] += 1
        if wrong:
            self.failures.append(f"{kind} ({output.name}): {wrong}:\n{ended.text[-2000:]}")
        return not wrong

    def kills(self, number: int, rng: random.Random) -> None:
        """SIGKILL."""
        self.missed_kills += number - self._interrupt("SIGKILL", [signal.SIGKILL] * number, rng)

    def stops(self, rng: random.Random) -> None:
        """Signals that ask for a checkpoint."""
        self._interrupt("stop signal", rng.choices(list(STOP_SIGNALS), k=FAULTS_PER_RUN), rng)

    def _interrupt(self, kind: str, numbers: list[signal.Signals], rng: random.Random) -> int:
        """Interrupt one run at random moments, several times, and let it end; returns how often it was interrupted."""
        output, sent = self.output(), 0
        for number in numbers:
            process = Process(output, self.data)
            if not process.wait_until(_moment(process, rng)):
                self.judge(kind, process.end(), output, sent)
                return sent
            ended = process.end(number)
            expected = STOP_SIGNALS.get(number, -number)
            if ended.code == 0:  # it was just finished
                break
            sent += 1
            if ended.code != expected or ended.trace:
                self.failures.append(f"{kind}: exit code {ended.code}, expected {expected}:\n{ended.text[-2000:]}")
        if self.judge(kind, Process(output, self.data).end(), output, sent):
            shutil.rmtree(output)
        return sent

    def damage(self, rng: random.Random) -> None:
        """Damage a checkpoint or both, a model folder and another output of a stopped run, and resume it."""
        output = self.output(copy=True)
        checkpoints = sorted((output / "checkpoints").glob("step-*"), reverse=True)[: rng.choice((1, 1, 1, 2))]
        named, what = [], []
        for folder in checkpoints:
            what.append(damage_path(folder / rng.choice(DAMAGED_CHECKPOINT), rng))
            named.append(str(folder))
        what.append(damage_path(output / rng.choice(MODEL_FOLDERS) / rng.choice(MODEL), rng))
        what.append(damage_path(output / rng.choice(OTHERS), rng))
        ended = Process(output, self.data).end()
        # Without an intact checkpoint it may not start over, and a folder in place of config.yaml is not removed.
        refusable = named[0] if len(named) == 2 else f"{output / 'config.yaml'} cannot be used"
        if self.judge("damaged files", ended, output, len(what), refusable):
            missing = [name for name in named if name not in ended.text]
            self.count("damaged checkpoints", "named", len(named) - len(missing))
            if missing:
                self.count("damaged checkpoints", "not named", len(missing))
                self.failures.append(f"not named: {missing} ({'; '.join(what)}):\n{ended.text[-2000:]}")
            shutil.rmtree(output)
        else:
            self.failures[-1] += f"\ninjected: {'; '.join(what)}"

    def disk(self, rng: random.Random) -> None:
        """Let a run meet a full disk when it writes a checkpoint, then make room and resume it."""
        size = sum(file.stat().st_size for file in self.halfway.rglob("*") if file.is_file())
        folder = self.output()
        log = folder.with_name(f"{folder.name}.log")  # not on the disk that is full
        with small_disk(folder, 3 * size + 8 * MiB) as place:
            output = place / "run"
            shutil.copytree(self.halfway, output)
            if os.geteuid():  # without a disk of its own: no file may be larger than part of a checkpoint
                ended = Process(output, self.data, size // rng.choice((8, 16, 64)), log).end()
            else:
                process = Process(output, self.data, log=log)
                # After its check of the free space, and in time before its next checkpoint.
                process.wait_until(lambda: "resumed at step" in process.text)
                filler = place / "filler"
                free = shutil.disk_usage(place).free
                with contextlib.suppress(OSError):  # full already: the run may have written since
                    filler.write_bytes(bytes(max(0, free - int(size / 3 * rng.random() ** 2))))
                ended = process.end()
                filler.unlink()
            if ended.code == 0:
                self.count("full disk", "enough room")
            elif ended.code != 2 or ended.trace or str(place) not in ended.text:
                self.count("full disk", "failed")
                self.failures.append(f"full disk: exit code {ended.code}:\n{ended.text[-2000:]}")
                return
            self.judge("full disk", Process(output, self.data, log=log).end(), output)


def _moment(process: Process, rng: random.Random) -> Callable[[], bool]:
    """A random moment: in start-up, or shortly after a random line of the run's output."""
    started = time.monotonic()
    if rng.random() < 0.2:
        delay = rng.uniform(0, 15)
        return lambda: time.monotonic() - started > delay
    lines, delay = rng.randrange(4, 14), rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 1)))
    seen: list[float] = []

    def reached() -> bool:
        if not seen and process.text.count("\n") > lines:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] > delay

    return reached


def trials(injection: Injection, kills: int) -> Iterator[Callable[[random.Random], None]]:
    """Trials of all kinds in turns, without end; those with kills until there were, or will be, enough."""
    planned = 0
    others = [injection.damage, injection.stops, injection.damage, injection.disk]
    while True:
        for other in others:
            if number := min(kills + injection.missed_kills - planned, FAULTS_PER_RUN):
                planned += number
                yield partial(injection.kills, number)
            yield other


def inject(injection: Injection, kills: int, minutes: float, jobs: int) -> None:
    """Inject faults until the time is over; the first trials are of all kinds."""
    until = time.monotonic() + 60 * minutes
    injection.prepare()
    queue = enumerate(trials(injection, kills))
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() < until:
            with lock:
                number, trial = next(queue)
            trial(random.Random(f"{injection.seed}-{number}"))
            print(json.dumps(injection.counts), file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0, help="no further trials after this time, nor kills")
    parser.add_argument("--jobs", type=int, default=min(len(os.sched_getaffinity(0)), 4), help="trials at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to train; runs that failed remain there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    accept_interrupts()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="frcnn-faults-")))
        folder.mkdir(parents=True, exist_ok=True)
        injection = Injection(folder.resolve(), options.seed)
        inject(injection, options.kills, options.minutes, options.jobs)
    for failure in injection.failures:
        print(failure, file=sys.stderr)
    print("| fault | number | outcome |\n|---|---|---|")
    for kind, outcomes in injection.counts.items():
        runs = f", in {injection.runs[kind]} runs" if injection.runs[kind] else ""
        for outcome, number in sorted(outcomes.items()):
            print(f"| {kind} | {number}{runs} | {outcome} |")
    print(f"\n{len(injection.failures)} failures")
    if options.json:
        content: dict[str, Any] = {"seed": options.seed, "counts": injection.counts, "failures": injection.failures}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if injection.failures else 0


if __name__ == "__main__":
    sys.exit(main())
