"""The fixture that test files of the evaluation share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # detected_cases: test modules are no package
from detected_cases import IndexMaker


@pytest.fixture
def make_index(tmp_path: Path) -> IndexMaker:
    return IndexMaker(tmp_path)
