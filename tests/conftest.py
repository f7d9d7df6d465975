"""Fixtures of all tests, and the order in which parallel workers take them.

The tests of a file run in one worker (`-n 2 --dist loadgroup`), so that its fixtures are set up once; files that share
network namespaces with fixed addresses form one group. Files marked `slow` (training, processes, network) start first,
so that no worker is left with one of them at the end; `make test-fast` leaves them out.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
TWO_HOSTS = {"distributed/test_failures.py", "distributed/test_ranks.py", "container/test_two_hosts.py"}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with ``bccd/`` and ``coco128/``: FRCNN_DATA, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("FRCNN_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "bccd").is_dir():
        pytest.skip(f"no real images in {folder}; set FRCNN_DATA to the folder that contains bccd/ and coco128/")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        item.add_marker(pytest.mark.xdist_group("two hosts" if file in TWO_HOSTS else file))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # stable
