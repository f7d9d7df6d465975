"""What fault_injection.py and stop_times.py do to a run: start, signal and damage it, on a disk that is small."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES, STEPS = 15, 18  # three of the images are for validation; six steps an epoch
OPTIONS = f"""
    image.min_size=[64] image.max_size=64 image.canvas_aspects=[1.0] backbone.name=resnet18 backbone.norm=gn
    fpn.channels=16 anchors.sizes=[8,16,32,64,128] rpn.pre_nms_train=40 rpn.post_nms_train=20 rpn.pre_nms_test=40
    rpn.post_nms_test=10 roi_head.samples=8 roi_head.fc_channels=16 optimizer.warmup_steps=4
    optimizer.base_batch_size=2 optimizer.ema=0.9 optimizer.schedule=cosine training.batch_size=2
    training.epochs={STEPS // 6} training.log_every=1 training.evaluate_every=1 training.keep_checkpoints=2
    data.workers=1
""".split()
RECIPE = REPOSITORY / "configs" / "shapes_r18_fpn.yaml"
SECONDS = 1800.0  # for one process, on a busy machine
STOP_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}  # and the exit code


class Ended(NamedTuple):
    """How a process ended; ``text`` is standard output and error."""

    code: int
    text: str

    @property
    def trace(self) -> bool:
        return "Traceback (most recent call last)" in self.text


@dataclass
class Process:
    """``frcnn train`` in the background.

    Attributes:
        output: the run's folder.
        limit: maximum bytes of a file that it writes.
        log: file for its output; None: beside the run's folder.
        ranks: number of processes; more than one are started by mpirun.
    """

    output: Path
    data: Path
    limit: int | None = None
    log: Path | None = None
    ranks: int = 1

    def __post_init__(self) -> None:
        launch = ["launch", "--hosts", f"localhost:{self.ranks}", "--"] if self.ranks > 1 else []
        command = [sys.executable, "-m", "frcnn", *launch, "train", "--config", str(RECIPE), *OPTIONS]
        self._log = (self.log or self.output.with_name(f"{self.output.name}.log")).open("w+b")
        self.popen = subprocess.Popen(
            [*command, f"data.root={self.data}", f"output={self.output}"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        )
        if self.limit:  # in time: no file is written in the first second
            resource.prlimit(self.popen.pid, resource.RLIMIT_FSIZE, (self.limit, self.limit))

    @property
    def text(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Wait for a moment; False if the process ended before."""
        deadline = time.monotonic() + SECONDS
        while not reached():
            if self.popen.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.output} made no progress within {SECONDS:.0f} s:\n{self.text}")
            time.sleep(0.005)
        return self.popen.poll() is None

    def end(self, number: signal.Signals | None = None) -> Ended:
        if number:
            self.popen.send_signal(number)
        try:
            code = self.popen.wait(SECONDS)
        finally:
            self.popen.kill()
        text = self.text
        self._log.close()
        return Ended(code, text)


def make_data(folder: Path) -> Path:
    """The dataset that the runs train on."""
    command = [sys.executable, "-m", "frcnn", "make-shapes", folder, "--images", str(IMAGES)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    return folder


def hash_file(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def accept_interrupts() -> None:
    """Let the processes that this one starts receive SIGINT, which shells disable for background commands."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def damage_path(path: Path, rng: random.Random) -> str:
    """Damage a file or folder at random; returns what was done."""
    action = rng.choice(("bit", "bit", "cut", "empty", "delete", "folder", "link", "garbage"))
    content = path.read_bytes() if path.is_file() else b""
    if action in ("bit", "cut") and not content:
        action = "delete"
    if action == "bit":
        place = rng.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << rng.randrange(8)])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
    elif action == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if action == "folder":
            path.mkdir()
        elif action == "link":
            path.symlink_to("nowhere")
        elif action != "delete":
            path.write_bytes(b"" if action == "empty" else rng.randbytes(2000))
    return f"{action} {path.name}"


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes for root, else the folder."""
    folder.mkdir()
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "frcnn-faults", folder], check=True)
    try:
        yield folder
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)
