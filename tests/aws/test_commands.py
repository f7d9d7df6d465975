"""The AWS commands start without TensorFlow, which a laptop that only starts jobs need not have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from click.testing import CliRunner
from frcnn.cli import main

codes = {line: CliRunner().invoke(main, line.split()).exit_code for line in sys.argv[1:]}
print(json.dumps({"codes": codes, "loaded": [name for name in ("tensorflow", "keras") if name in sys.modules]}))
"""


def test_dry_runs_do_not_load_tensorflow() -> None:
    lines = [
        f"{command} --config configs/{folder}/bccd.yaml --dry-run"
        for command, folder in (
            ("launch-job", "jobs"),
            ("launch-tuning", "tuning"),
            ("deploy", "endpoints"),
            ("transform", "transforms"),
        )
    ]
    lines += ["jobs --dry-run", "fetch-weights --list", "deploy --help"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *lines], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["codes"] == dict.fromkeys(lines, 0)
    assert result["loaded"] == []
