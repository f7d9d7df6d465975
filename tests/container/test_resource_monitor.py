"""Utilisation of the host."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from frcnn.container.resource_monitor import ResourceMonitor


def test_unwritable_tensorboard_folder_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    lines = io.StringIO()
    with ResourceMonitor(tmp_path, "algo-1", lambda: 3, seconds=0.01, stream=lines):
        while lines.getvalue().count("\n") < 2:
            time.sleep(0.01)
    assert all(line.startswith("resources host=algo-1 ") for line in lines.getvalue().splitlines())
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"frcnn: warning: {tmp_path}/tensorboard/resources-algo-1 cannot be written ({tmp_path}")
    assert warning.endswith("; training continues without it")
