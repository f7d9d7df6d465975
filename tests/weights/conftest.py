"""Fixtures for the tests of other frameworks' weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # foreign_names: the test folders are not packages


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the files written by tools/store_parity.py and tools/store_checkpoints.py."""
    return Path(__file__).parent / "golden"
