"""The GPUs of this machine, as NVIDIA's management library sees them: without CUDA, which would take memory on each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple


class Gpu(NamedTuple):
    """One GPU at one moment: use in percent of the time, memory in percent of what it has."""

    name: str
    memory_gib: float
    use: float
    memory_use: float


@contextlib.contextmanager
def management_library() -> Iterator[Any]:
    """The module ``pynvml``, initialised; None where it or the driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, or one that does not fit: then there is nothing to ask
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def count_gpus() -> int:
    with management_library() as library:
        return int(library.nvmlDeviceGetCount()) if library else 0


def driver_version() -> str | None:
    with management_library() as library:
        return str(library.nvmlSystemGetDriverVersion()) if library else None


def read_gpus(library: Any) -> list[Gpu]:
    """All GPUs, by an open :func:`management_library`, none where it is None; a value that a GPU does not tell is 0."""
    if library is None:
        return []
    return [
        _read(library, library.nvmlDeviceGetHandleByIndex(number)) for number in range(library.nvmlDeviceGetCount())
    ]


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
