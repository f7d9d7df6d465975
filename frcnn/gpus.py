"""NVIDIA GPUs of this machine, without creating a CUDA context, which would take memory on each of them.

Queries NVIDIA's management library (NVML) through ``pynvml``. Without that package, :func:`count_gpus` counts device
files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEVICE_FOLDER = Path("/dev")  # the driver creates nvidia0, nvidia1, ... here
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


class Gpu(NamedTuple):
    """State of one GPU; ``use`` is the percentage of time, ``memory_use`` the percentage of memory."""

    name: str
    memory_gib: float
    use: float
    memory_use: float


@contextlib.contextmanager
def management_library() -> Iterator[Any]:
    """The initialized module ``pynvml``; None if the package or the driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # package or driver missing, or incompatible with each other
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def count_gpus() -> int:
    """Number of GPUs that CUDA would enumerate in this process: those that ``CUDA_VISIBLE_DEVICES`` leaves."""
    with management_library() as library:
        return len(_visible_handles(library) if library else visible_gpus(range(_count_device_files())))


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None if there is none."""
    with management_library() as library:
        return str(library.nvmlSystemGetDriverVersion()) if library else None


def read_gpus(library: Any) -> list[Gpu]:
    """The visible GPUs, from an open :func:`management_library` (None: no GPUs). Unavailable values are 0."""
    return [_read(library, handle) for handle in _visible_handles(library)] if library else []


def visible_gpus(gpus: range, find_by_uuid: Callable[[str], Any] | None = None) -> list[Any]:
    """Those of all ``gpus`` (indices) that ``CUDA_VISIBLE_DEVICES`` selects, by the rules of the CUDA driver.

    The first entry determines whether entries are indices, UUIDs (``GPU-...``, unique prefixes allowed) or MIG devices
    (``MIG-...``). An invalid entry ends the list; a repeated one empties it. CUDA uses one MIG device per process.

    Args:
        gpus: indices of the installed GPUs.
        find_by_uuid: returns any object that identifies a UUID's device, or None; default: all UUIDs are valid.
    """
    setting = os.environ.get(VISIBLE_DEVICES)
    if setting is None:
        return list(gpus)
    entries = [entry.strip() for entry in setting.split(",")]
    kind = next((kind for kind in ("GPU-", "MIG-") if entries[0].startswith(kind)), "")
    found: list[Any] = []
    for entry in entries:
        if kind:
            gpu = (find_by_uuid(entry) if find_by_uuid else entry) if entry.startswith(kind) else None
        else:
            digits = re.match(r"\+?(\d+)", entry)  # like strtoul: what follows the digits is ignored
            gpu = int(digits[1]) if digits and int(digits[1]) in gpus else None
        if gpu is None:
            break
        if gpu in found:
            return []
        found.append(gpu)
    return found[: 1 if kind == "MIG-" else len(gpus)]


def _visible_handles(library: Any) -> list[Any]:
    gpus = range(library.nvmlDeviceGetCount())

    def find(uuid: str) -> Any:
        if uuid.startswith("MIG-"):
            with contextlib.suppress(library.NVMLError):
                return library.nvmlDeviceGetHandleByUUID(uuid.encode())
            return None
        matches = [
            index
            for index in gpus
            if str(library.nvmlDeviceGetUUID(library.nvmlDeviceGetHandleByIndex(index))).startswith(uuid)
        ]
        return matches[0] if len(matches) == 1 else None

    return [
        library.nvmlDeviceGetHandleByIndex(gpu) if isinstance(gpu, int) else gpu for gpu in visible_gpus(gpus, find)
    ]


def _count_device_files() -> int:
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in DEVICE_FOLDER.glob("nvidia*"))


def _read(library: Any, handle: Any) -> Gpu:
    name, memory, use = "GPU", None, 0.0
    with contextlib.suppress(library.NVMLError):
        name = str(library.nvmlDeviceGetName(handle))
    with contextlib.suppress(library.NVMLError):
        memory = library.nvmlDeviceGetMemoryInfo(handle)
    with contextlib.suppress(library.NVMLError):
        use = float(library.nvmlDeviceGetUtilizationRates(handle).gpu)
    return Gpu(
        name, memory.total / 2**30 if memory else 0.0, use, 100.0 * memory.used / memory.total if memory else 0.0
    )
