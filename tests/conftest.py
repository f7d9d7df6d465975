"""Fixtures of all tests, and the order in which parallel workers take them.

The tests of a file run in one worker (`-n 2 --dist loadfile --no-loadscope-reorder`), so that its fixtures are set up
once. The files of SLOW_FILES (training, processes, network) start first, the slowest before the others, so that no
worker is left with one of them at the end; their tests are marked `slow`, which `make test-fast` leaves out.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
sys.path.insert(0, str(TESTS))  # for command_line: tests are not a package
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SLOW_FILES = (
    "distributed/test_failures.py",
    "container/test_two_hosts.py",
    "distributed/test_ranks.py",
    "training/test_trainer.py",
    "training/test_unreadable_images.py",
    "container/test_entrypoint.py",
    "scripts/test_gpu_day.py",
    "training/test_resume.py",
    "training/test_resume_options.py",
    "test_docs.py",
    "test_notebook.py",
    "training/test_overfit.py",
    "ops/test_mutations.py",
    "ops/test_gpu_check.py",
    "ops/test_cuda_on_the_host.py",
    "modeling/test_parity.py",
    "serving/test_server.py",
    "container/test_toolkit.py",
    "training/test_signals.py",
    "aws/test_rehearsal.py",
    "test_export.py",
    "serving/test_hostile.py",
    "ops/test_build.py",
    "modeling/test_gpu_placement.py",
    "training/test_folders.py",
    "scripts/test_push_to_ecr.py",
    "test_cli.py",
    "serving/test_predictor.py",
    "ops/test_roi_align.py",
    "ops/test_nms.py",
    "serving/test_engine.py",
    "ops/test_cpu_kernels_alone.py",
    "ops/test_gpu_code.py",
    "ops/test_saved_model.py",
    "ops/test_cuda_launches.py",
    "modeling/test_faster_rcnn.py",
    "ops/test_active_kernels.py",
    "serving/test_openapi.py",
    "serving/test_page.py",
    "serving/test_decoder_pool.py",
)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with ``bccd/`` and ``coco128/``: FRCNN_DATA, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("FRCNN_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "bccd").is_dir():
        pytest.skip(f"no real images in {folder}; set FRCNN_DATA to the folder that contains bccd/ and coco128/")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium, for one file: while Playwright runs, its event loop makes ``asyncio.run`` fail."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, BROWSERS)), own if os.path.exists(own) else None)
        if program is None:
            pytest.skip("no browser: install the system package chromium, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {file: position for position, file in enumerate(SLOW_FILES)}
    positions = {item: order.get(item.path.relative_to(TESTS).as_posix(), len(order)) for item in items}
    for item, position in positions.items():
        if position < len(order):
            item.add_marker(pytest.mark.slow)
    items.sort(key=positions.__getitem__)  # stable
