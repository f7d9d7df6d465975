"""Shared material of the tests of foreign weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # foreign_names: test modules are no package


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of what tools/store_parity.py and tools/store_checkpoints.py wrote."""
    return Path(__file__).parent / "golden"
