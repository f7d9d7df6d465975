"""The one-command check for GPUs, on the host shim."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shim_runs

FAKE_SANITIZER = """#!/bin/sh
log=/dev/stdout
while [ "${1#--}" != "$1" ]; do
  if [ "$1" = --log-file ]; then log=$2; fi
  shift 2
done
echo "========= COMPUTE-SANITIZER" > "$log"
exec "$@"
"""
CHECK = Path(__file__).parent / "gpu" / "check.py"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def run_check(check: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(check), *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_check_passes_on_the_host_shim(tmp_path):
    done = run_check(CHECK, "--shim", "--json", str(tmp_path / "check.json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all checks passed\n")
    results = json.loads((tmp_path / "check.json").read_text())
    assert results["shim"]
    assert results["oracle"] == [name for name, _ in shim_runs.checks()]


@pytest.mark.parametrize("status", [0, 9])
def test_sanitizer_reports_to_its_log(tmp_path, monkeypatch, capsys, status):
    for name, script in (
        ("compute-sanitizer", FAKE_SANITIZER),
        ("program", f"#!/bin/sh\nprintf r; echo 0 >&2; exit {status}\n"),
    ):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    spec = importlib.util.spec_from_file_location("gpu_check", CHECK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = []
    run = [("call", lambda command, order: results.append(shim_runs.run(command, "nms", order)[0]))]
    monkeypatch.setattr(shim_runs, "checks", lambda: run)
    if status == 0:
        assert module.sanitize(tmp_path / "program") == list(module.TOOLS)
        assert results == [b"r"] * len(module.TOOLS)
    else:
        with pytest.raises(shim_runs.Failure, match="status 9"):
            module.sanitize(tmp_path / "program")
    assert ("COMPUTE-SANITIZER" in capsys.readouterr().out) == (status != 0)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("roi_align.h", "(1.0f - fraction) * share", "fraction * share"),
        ("nms.cu", "rank += cached[j] < key", "rank += cached[j] <= key"),
    ],
)
def test_check_fails_on_a_defect(tmp_path, file, old, new):
    for folder in ("frcnn/ops", "tests/ops"):
        origin = CHECK.parents[3] / folder
        shutil.copytree(origin, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    source = tmp_path / "frcnn" / "ops" / "kernels" / file
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    done = run_check(tmp_path / "tests" / "ops" / "gpu" / "check.py", "--shim")
    assert done.returncode != 0
    assert "AssertionError" in done.stdout
    assert "all checks passed" not in done.stdout
