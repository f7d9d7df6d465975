"""scripts/gpu_day.sh on a small scale without a GPU, and the arithmetic of its report."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow.tsl.profiler.protobuf import xplane_pb2

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import gpu_day  # noqa: E402
import gpu_speed  # noqa: E402


@pytest.mark.slow
def test_the_small_run_fills_every_section_of_the_report(tmp_path: Path) -> None:
    command = [REPOSITORY / "scripts" / "gpu_day.sh", tmp_path / "out", "--small"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    report = json.loads((tmp_path / "out" / "gpu_report.json").read_text())
    sections = report["sections"]
    expected_peer = {"peer mixed_bfloat16": 0} if importlib.util.find_spec("torchvision") else {}
    assert {name: section["exit_code"] for name, section in sections.items()} == {
        **expected_peer,
        "doctor": 0,
        "tests": 0,
        "parity": 0,
        "speed mixed_bfloat16": 0,
        "input": 0,
        "serving": 0,
    }, done.stdout[-3000:]
    assert done.returncode == 0
    parity = sections["parity"]["result"]
    assert max(parity["stages"].values()) < 1e-4
    assert len(parity["losses"][0]) == len(parity["losses"][1]) == 3
    for task in ("training", "inference"):
        (row,) = sections["speed mixed_bfloat16"]["result"][task]
        assert row["images_per_second"] == pytest.approx(1e3 / row["milliseconds"])
        assert row["share_of_peak"] > 0
        assert row["gpu_idle"] is None
    table = (tmp_path / "out" / "gpu_report.md").read_text()
    assert table.startswith("## ")
    for line in (
        "| tests | passed: 1 passed",
        "| mixed_bfloat16 | 1 | ",
        "| pipeline, 1 threads | ",
        "| batches up to 2 | 80 % | ",
    ):
        assert line in table


def test_idle_time_is_what_no_stream_covers() -> None:
    space = xplane_pb2.XSpace()
    plane = space.planes.add(name="/device:GPU:0 NVIDIA H100")
    # Stream 1 runs in 1..2 and 5..6 microseconds, stream 2 in 1.5..3: busy 3 of 5.
    for name, start, events in (
        ("Stream #1(Compute)", 1000, [(0, 10**6), (4 * 10**6, 10**6)]),
        ("Stream #2(Memcpy)", 1500, [(0, 1_500_000)]),
        ("Framework Ops", 1000, [(0, 5 * 10**6)]),
    ):
        line = plane.lines.add(name=name, timestamp_ns=start)
        for offset, duration in events:
            line.events.add(offset_ps=offset, duration_ps=duration)
    space.planes.add(name="/host:CPU").lines.add(name="Stream").events.add(duration_ps=10**9)
    # Busy for 3 microseconds in two calls of 2.5 microseconds each.
    assert gpu_speed.idle_share(gpu_speed.gpu_intervals(space), 2, 2.5e-6) == pytest.approx(0.4)
    assert gpu_speed.idle_share(gpu_speed.gpu_intervals(xplane_pb2.XSpace()), 2, 2.5e-6) is None


def test_the_table_names_failures_and_batches_that_did_not_fit() -> None:
    row = {"batch": 1, "milliseconds": 50.0, "gpu_idle": 0.25, "memory_mebibytes": 900.0}
    content = {
        "machine": {"card": "NVIDIA H100", "processor": "x", "tensorflow": "2", "keras": "3", "cores": 8},
        "sections": {
            "tests": {"exit_code": 1, "output": "F\n1 failed"},
            "speed tf32": {
                "exit_code": 0,
                "output": "",
                "result": {
                    "training": [
                        {**row, "images_per_second": 20.0, "share_of_peak": 0.31},
                        {"batch": 2, "error": "out of memory"},
                    ]
                },
            },
            "peer tf32": {
                "exit_code": 0,
                "output": "",
                "result": {"training": [{"batch": 1, "milliseconds": 125.0, "memory_mebibytes": 1800.0}]},
            },
        },
    }
    table = gpu_day.markdown(content)
    assert "## NVIDIA H100" in table
    assert "| tests | **failed**: 1 failed |" in table
    assert "| tf32 | 1 | 20.0 | 50.0 | 31% | 25% | 900 | 125.0 | 1800 | 2.50 |" in table
    assert "| tf32 | 2 | out of memory | | | | | | | |\n" in table
