"""What all tests share: the folder of real pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with ``bccd/`` and ``coco128/``: the environment's FRCNN_DATA, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("FRCNN_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "bccd").is_dir():
        pytest.skip(f"no real pictures in {folder}; set FRCNN_DATA to the folder that holds bccd/ and coco128/")
    return folder
