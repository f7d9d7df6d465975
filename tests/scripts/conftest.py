"""What the tests of the scripts share: where they are, and a shell to run them in."""

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
    """Runs a script with these variables; ``aws`` is there, and refuses everything, so that no test reaches for an account."""
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
