"""Fixtures of all tests, and the order in which parallel workers take them.

The tests of a file run in one worker (`-n 2 --dist loadfile --no-loadscope-reorder`), so that its fixtures are set up
once. The files of SLOW_FILES (training, processes, network) start first, the slowest before the others, so that no
worker is left with one of them at the end; their tests are marked `slow`, which `make test-fast` leaves out.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
SLOW_FILES = (
    "training/test_trainer.py",
    "training/test_resume.py",
    "container/test_two_hosts.py",
    "distributed/test_failures.py",
    "distributed/test_ranks.py",
    "training/test_overfit.py",
    "ops/test_mutations.py",
    "ops/test_cuda_on_the_host.py",
    "ops/test_gpu_check.py",
    "ops/test_contract.py",
    "modeling/test_parity.py",
    "modeling/test_gpu_placement.py",
    "container/test_entrypoint.py",
    "container/test_toolkit.py",
    "serving/test_server.py",
    "serving/test_hostile.py",
    "serving/test_predictor.py",
    "test_notebook.py",
    "test_docs.py",
    "test_cli.py",
    "test_export.py",
    "scripts/test_gpu_day.py",
    "aws/test_rehearsal.py",
    "training/test_signals.py",
)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with ``bccd/`` and ``coco128/``: FRCNN_DATA, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("FRCNN_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "bccd").is_dir():
        pytest.skip(f"no real images in {folder}; set FRCNN_DATA to the folder that contains bccd/ and coco128/")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {file: position for position, file in enumerate(SLOW_FILES)}
    positions = {item: order.get(item.path.relative_to(TESTS).as_posix(), len(order)) for item in items}
    for item, position in positions.items():
        if position < len(order):
            item.add_marker(pytest.mark.slow)
    items.sort(key=positions.__getitem__)  # stable
