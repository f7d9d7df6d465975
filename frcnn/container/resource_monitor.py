"""Utilisation of a host during training, as metric lines and in TensorBoard; it shows a GPU that waits for data."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import psutil
import tensorflow as tf

from frcnn.errors import print_message
from frcnn.gpus import Gpu, management_library, read_gpus
from frcnn.training.metric_lines import metric_line
from frcnn.training.optional_output import OptionalOutput
from frcnn.training.progress import TENSORBOARD_FOLDER

RECORD_SECONDS = 30.0
SAMPLE_SECONDS = 1.0  # NVML reports the utilisation of the last second or less


class Counters(NamedTuple):
    """Bytes since the machine was started, at a time in seconds."""

    seconds: float
    disk_read: int
    disk_write: int
    network_in: int
    network_out: int


class ResourceMonitor:
    """While entered, a thread records the utilisation of CPUs, memory, disk, network and GPUs every half minute.

    If TensorBoard's folder cannot be written, one warning is printed; the metric lines continue.

    Args:
        folder: TensorBoard scalars go to ``tensorboard/resources-HOST`` in it; the disk usage is that of its disk.
        step: returns the step that training has reached.
        watch: False disables the monitor.
        seconds: between records.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        step: Callable[[], int],
        watch: bool = True,
        seconds: float = RECORD_SECONDS,
        stream: TextIO | None = None,
    ) -> None:
        self._folder, self._host, self._step, self._seconds = folder, host, step, seconds
        self._stream = stream or sys.stdout
        self._optional = OptionalOutput(print_message)
        self._summaries = tf.summary.create_noop_writer()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="resources", daemon=True) if watch else None

    def __enter__(self) -> ResourceMonitor:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        with self._tensorboard():
            self._summaries = tf.summary.create_file_writer(str(self._tensorboard_folder))
        with management_library() as library:
            psutil.cpu_percent()  # reports the time since the previous call, so the first result is meaningless
            before, samples = read_counters(), [read_gpus(library)]
            while not self._stop.wait(min(SAMPLE_SECONDS, self._seconds)):
                samples.append(read_gpus(library))
                now = read_counters()
                if now.seconds - before.seconds >= self._seconds:
                    self._record(before, now, samples)
                    before, samples = now, []
            self._record(before, read_counters(), samples)  # for short jobs as well
        with self._tensorboard():
            self._summaries.close()

    @property
    def _tensorboard_folder(self) -> Path:
        return self._folder / TENSORBOARD_FOLDER / f"resources-{self._host}"

    def _tensorboard(self) -> AbstractContextManager[None]:
        return self._optional.writing(str(self._tensorboard_folder))

    def _record(self, before: Counters, now: Counters, samples: list[list[Gpu]]) -> None:
        values: Mapping[str, Any] = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": psutil.virtual_memory().percent,
            "disk_percent": _disk_percent(self._folder),
            **rates(before, now),
            **gpu_use(samples),
        }
        # A single write per line, so that lines of several processes do not interleave.
        self._stream.write(metric_line("resources", {"host": self._host, **values}) + "\n")
        self._stream.flush()
        with self._tensorboard(), self._summaries.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"resources/{name}", value, step=self._step())


def rates(before: Counters, now: Counters) -> dict[str, float]:
    """Megabytes (10^6 bytes) per second between two readings."""
    seconds = max(now.seconds - before.seconds, 1e-9)
    names = ("disk_read_mb_s", "disk_write_mb_s", "network_in_mb_s", "network_out_mb_s")
    return {
        name: (after - first) / seconds / 1e6 for name, first, after in zip(names, before[1:], now[1:], strict=True)
    }


def gpu_use(samples: list[list[Gpu]]) -> dict[str, float]:
    """Utilisation in percent: mean over GPUs and samples, least busy GPU, peak memory; empty without GPUs."""
    gpus = list(zip(*samples, strict=False))
    if not gpus:
        return {}
    means = [sum(gpu.use for gpu in readings) / len(readings) for readings in gpus]
    memory = max(gpu.memory_use for readings in gpus for gpu in readings)
    return {
        "gpus": len(gpus),
        "gpu_percent": sum(means) / len(means),
        "gpu_lowest_percent": min(means),
        "gpu_memory_percent": memory,
    }


def read_counters() -> Counters:
    """The machine's counters; those it does not provide are 0."""
    disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    return Counters(
        time.monotonic(),
        disk.read_bytes if disk else 0,
        disk.write_bytes if disk else 0,
        network.bytes_recv if network else 0,
        network.bytes_sent if network else 0,
    )


def _disk_percent(folder: Path) -> float:
    usage = shutil.disk_usage(folder)
    return 100.0 * usage.used / max(usage.total, 1)
