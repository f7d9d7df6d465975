"""The descendants of a process, from ``/proc``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    """A process; ``name`` is its program's name, which the kernel truncates to 15 characters."""

    pid: int
    parent: int
    name: str


def descendants(ancestor: int) -> list[Process]:
    """All living descendants of ``ancestor``, parents before their children."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found = list(children.get(ancestor, []))
    for process in found:  # grows during the iteration
        found += children.get(process.pid, [])
    return found


def _all() -> list[Process]:
    processes = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:  # the process has ended
            continue
        # "pid (name) state parent …"; a name may contain spaces and parentheses.
        name, _, rest = stat.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if state not in "ZX":
            processes.append(Process(int(entry.name), int(parent), name))
    return processes
