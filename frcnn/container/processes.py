"""The processes below one, from ``/proc``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    """A process; ``name`` is that of its program, cut to 15 characters by the kernel."""

    pid: int
    parent: int
    name: str


def descendants(ancestor: int) -> list[Process]:
    """All living processes below ``ancestor``, parents before their children."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found = list(children.get(ancestor, []))
    for process in found:  # grows while it is walked
        found += children.get(process.pid, [])
    return found


def _all() -> list[Process]:
    processes = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:  # ended meanwhile
            continue
        # "pid (name) state parent …", and a name may hold spaces and brackets.
        name, _, rest = stat.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if state not in "ZX":
            processes.append(Process(int(entry.name), int(parent), name))
    return processes
