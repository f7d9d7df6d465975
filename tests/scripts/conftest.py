"""Fixtures for the tests of the scripts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with the given variables; ``aws`` is a program that always fails: no test uses an account."""
    refusing = tmp_path / "bin" / "aws"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\nexit 255\n")
    refusing.chmod(0o755)

    def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{refusing.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), **variables}
        return subprocess.run(
            [REPOSITORY / name, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run
