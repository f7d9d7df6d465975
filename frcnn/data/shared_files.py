"""Images that two splits share by content, which make validation numbers look better than they are."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from frcnn.data.coco import Index
from frcnn.data.problems import first_few
from frcnn.data.threads import thread_pool

HEAD = 4096  # bytes; different photos of one size in bytes differ here
THREADS = 16  # they wait for the disk or the network


def find_shared_files(first: Index, second: Index) -> list[tuple[Path, Path]]:
    """Pairs of files with the same bytes, one of each index; files that cannot be read are skipped.

    Reads the size of every file, the head of files with the same size, and only then whole files.
    """
    groups = [([record.path for record in first.images], [record.path for record in second.images])]
    with thread_pool(THREADS) as threads:
        for key in (_size, _head_digest, _digest):
            groups = [group for members in groups for group in _split(members, key, threads)]
    return sorted((a, b) for ones, others in groups for a in ones[:1] for b in others)


def describe_shared_files(first: Index, second: Index) -> str | None:
    """A warning about images that both indexes have; None where there are none."""
    shared = find_shared_files(first, second)
    if not shared:
        return None
    examples = first_few((f"{a} = {b}" for a, b in shared), 3)
    return (
        f"{len(shared)} images of {second.source} are also images of {first.source}, byte for byte, so that numbers "
        f"measured on the former are too good: {examples}"
    )


Group = tuple[list[Path], list[Path]]


def _split(group: Group, key: Callable[[Path], Hashable], threads: ThreadPoolExecutor) -> Iterable[Group]:
    """Parts of a group whose files have the same key, without parts that only one side has."""
    parts: dict[Hashable, Group] = defaultdict(lambda: ([], []))
    for side in (0, 1):
        for path, value in zip(group[side], threads.map(key, group[side]), strict=True):
            if value is not None:
                parts[value][side].append(path)
    return (part for part in parts.values() if part[0] and part[1])


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _head_digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(HEAD)).digest()
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
