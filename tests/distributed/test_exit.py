"""The exit without the interpreter's teardown does what precedes the teardown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit, sys, threading, time
from frcnn.distributed.exit import exit_process
atexit.register(lambda: print("handler"))
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
print("output", flush=False)
class Object:
    def __del__(self): print("teardown", flush=True)
kept = Object()
exit_process(int(sys.argv[1]))
"""


def _run(code: int, stdout: int | object = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(code)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, env=variables, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)  # type: ignore[call-overload]


def test_threads_handlers_and_output_are_complete_and_the_teardown_is_skipped() -> None:
    done = _run(143)
    assert (done.returncode, done.stderr) == (143, "")
    assert done.stdout.split() == ["output", "thread", "handler"]


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        assert _run(0, full).returncode == 1
        assert _run(2, full).returncode == 2
