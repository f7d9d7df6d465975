"""Injects faults into a small training run and checks that it recovers, or says in a sentence why not.

    python tools/fault_injection.py --kills 20 --minutes 10 --json faults.json

Trains a small model on `frcnn make-shapes` once without faults. Then the same training is

* killed (SIGKILL) or stopped (SIGINT, SIGTERM, SIGUSR1) at random moments, several times before it may end;
* resumed after random damage to its newest checkpoints, model folder, metrics.jsonl and other outputs: flipped bits,
  truncated, emptied, deleted, replaced by a folder, a dangling link or other content;
* resumed after its disk ran full: a small tmpfs for root, otherwise a limit of the size of files.

Every trial must end with weights and a final checkpoint that are bit-identical to those without faults (the checkpoint
alone if the model folder was damaged and named), or exit with 2 and messages that name what is damaged; never with a
stack trace, and never with 0 and another result. Which faults are injected follows from the seed; at which instruction
a signal arrives does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from faults import IMAGES, REPOSITORY, STEPS, Ended, Process, damage_path, small_disk

STOP_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}  # and the exit code
FAULTS_PER_RUN = 5  # kills or signals before a run may end
DAMAGED_CHECKPOINT = ("manifest.json", "variables.index", "variables.data-00000-of-00001")
DAMAGED_MODEL = ("weights.safetensors", "config.yaml", "labels.json", "metrics.json", "SHA256SUMS")
OTHERS = ("metrics.jsonl", "tensorboard", "images", "config.yaml")  # optional, or written again by each start
MiB = 1 << 20


def result(output: Path) -> dict[str, str]:
    """Hashes of what a finished run leaves, as the files' own programs would read them."""
    hashes = json.loads((output / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())["sha256"]
    return {**hashes, **{name: _hash(output / "model" / name) for name in ("weights.safetensors", "labels.json")}}


def _hash(file: Path) -> str:
    done = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True)
    return done.stdout.split()[0]


@dataclass
class Injection:
    """The trials of a seed and their outcomes.

    Attributes:
        counts: trials by kind and outcome.
        failures: what must not happen.
    """

    folder: Path
    seed: int
    data: Path = field(init=False)
    expected: dict[str, str] = field(init=False)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _runs: int = 0

    def prepare(self) -> None:
        """Train without faults; keep the results and a copy of a run that was stopped in its last epoch."""
        self.data = self.folder / "shapes"
        command = [sys.executable, "-m", "frcnn", "make-shapes", self.data, "--images", str(IMAGES)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        self.halfway = self.folder / "halfway"
        process = Process(self.halfway, self.data)
        process.wait_until(lambda: f"train step={STEPS - 3} " in process.text)
        ended = process.end(signal.SIGTERM)
        undisturbed = self.folder / "undisturbed"
        whole = Process(undisturbed, self.data).end()
        if (ended.code, whole.code) != (STOP_SIGNALS[signal.SIGTERM], 0):
            raise SystemExit(f"the runs without faults failed:\n{ended.text}\n{whole.text}")
        self.expected = result(undisturbed)

    def output(self, copy: bool = False) -> Path:
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        if copy:
            shutil.copytree(self.halfway, folder)
        return folder

    def count(self, kind: str, outcome: str, number: int = 1) -> None:
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
                found = result(output)
                # The weights of the best evaluation are in the model folder only: if it was damaged, they are lost.
                lost = f"model folder {output / 'model'} is damaged" in ended.text
                same = all(
                    found[name] == value for name, value in self.expected.items() if not lost or "variables" in name
                )
            except (OSError, ValueError, KeyError) as error:
                same, wrong = False, f"exit code 0, and {error}"
            if not same:
                outcome, wrong = "another result", wrong or "exit code 0 with another result"
        self.count(kind, outcome, faults)
        if wrong:
            self.failures.append(f"{kind} ({output.name}): {wrong}:\n{ended.text[-2000:]}")
        return not wrong

    def kills(self, number: int, rng: random.Random) -> None:
        """SIGKILL."""
        self._interrupt("SIGKILL", [signal.SIGKILL] * number, rng)

    def stops(self, rng: random.Random) -> None:
        """Signals that ask for a checkpoint."""
        self._interrupt("stops", rng.choices(list(STOP_SIGNALS), k=FAULTS_PER_RUN), rng)

    def _interrupt(self, kind: str, numbers: list[signal.Signals], rng: random.Random) -> None:
        """Interrupt one run at random moments, several times, and let it end."""
        output, sent = self.output(), 0
        for number in numbers:
            process = Process(output, self.data)
            if not process.wait_until(_moment(process, rng)):
                self.judge(kind, process.end(), output, sent)
                return
            ended = process.end(number)
            expected = STOP_SIGNALS.get(number, -number)
            if ended.code == 0:  # it was just finished
                break
            sent += 1
            if ended.code != expected or ended.trace:
                self.failures.append(f"{kind}: exit code {ended.code}, expected {expected}:\n{ended.text[-2000:]}")
        self.judge(kind, Process(output, self.data).end(), output, sent)
        shutil.rmtree(output)

    def damage(self, rng: random.Random) -> None:
        """Damage a checkpoint or both, the model folder and another output of a stopped run, and resume it."""
        output = self.output(copy=True)
        checkpoints = sorted((output / "checkpoints").iterdir(), reverse=True)[: rng.choice((1, 1, 1, 2))]
        named, what = [], []
        for folder in checkpoints:
            what.append(damage_path(folder / rng.choice(DAMAGED_CHECKPOINT), rng))
            named.append(str(folder))
        what.append(damage_path(output / "model" / rng.choice(DAMAGED_MODEL), rng))
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
                ended = Process(output, self.data, size // rng.choice((4, 8, 64)), log).end()
            else:
                process = Process(output, self.data, log=log)
                process.wait_until(lambda: f"train step={STEPS - 1} " in process.text)
                filler = place / "filler"
                free = shutil.disk_usage(place).free
                with contextlib.suppress(OSError):  # full already: the run may have written since
                    filler.write_bytes(bytes(max(0, free - int(size / 3 * rng.random() ** 2))))
                ended = process.end()
                filler.unlink()
            if ended.code == 0:
                self.count("full disks", "enough room")
            elif ended.code != 2 or ended.trace or str(place) not in ended.text:
                self.count("full disks", "failed")
                self.failures.append(f"full disk: exit code {ended.code}:\n{ended.text[-2000:]}")
                return
            self.judge("full disks", Process(output, self.data, log=log).end(), output)


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


def inject(injection: Injection, kills: int, minutes: float) -> None:
    """Inject faults of all kinds in turns until the time is over and, unless it is over before, all kills are done."""
    rng = random.Random(injection.seed)
    injection.prepare()
    until = time.monotonic() + 60 * minutes
    done = 0
    while time.monotonic() < until:
        trials: list[Callable[[random.Random], None]] = [injection.damage, injection.stops, injection.damage]
        if done < kills:
            trials.insert(0, partial(injection.kills, min(kills - done, FAULTS_PER_RUN)))
        for trial in (*trials, injection.disk):
            if time.monotonic() < until:
                trial(rng)
                print(json.dumps(injection.counts), file=sys.stderr, flush=True)
        done = sum(injection.counts["SIGKILL"].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0, help="no further trials after this time, nor kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to train; runs that failed remain there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="frcnn-faults-")))
        folder.mkdir(parents=True, exist_ok=True)
        injection = Injection(folder.resolve(), options.seed)
        inject(injection, options.kills, options.minutes)
    for failure in injection.failures:
        print(failure, file=sys.stderr)
    print("| fault | number | outcome |\n|---|---|---|")
    for kind, outcomes in injection.counts.items():
        for outcome, number in sorted(outcomes.items()):
            print(f"| {kind} | {number} | {outcome} |")
    print(f"\n{len(injection.failures)} failures")
    if options.json:
        content: dict[str, Any] = {"seed": options.seed, "counts": injection.counts, "failures": injection.failures}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if injection.failures else 0


if __name__ == "__main__":
    sys.exit(main())
