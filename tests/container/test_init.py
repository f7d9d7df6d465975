"""Process 1 with real children, real signals and, where permitted, a real process namespace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENTRYPOINT = (sys.executable, "-m", "frcnn.entrypoint")


def as_process_one() -> list[str]:
    """Prefix that makes a command process 1 of a namespace; empty where this machine does not permit it."""
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    print("not as process 1: unshare --pid is not allowed here")
    return []


def start(script: str, prefix: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, *ENTRYPOINT, "bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output + errors


def below(pid: int, name: str) -> list[int]:
    """Ids of the descendants of ``pid`` whose name starts with ``name``."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    found = {pid}
    for _ in rows:
        found |= {int(row[0]) for row in rows if int(row[1]) in found}
    return [int(row[0]) for row in rows if int(row[0]) in found and row[2].startswith(name)]


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("exec no-such-program", 127)],
)
def test_exit_code_of_the_command_is_the_containers(script: str, code: int) -> None:
    assert ended(start(script, as_process_one()))[0] == code


def test_missing_command_is_reported_as_by_a_shell() -> None:
    done = subprocess.run([*ENTRYPOINT, "/no/such/program"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "frcnn: /no/such/program cannot be run: No such file or directory\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_child_and_its_answer_counts(number: signal.Signals) -> None:
    prefix = as_process_one()
    name = number.name.removeprefix("SIG")
    process = start(f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done", prefix)
    wait_for(process, "ready")
    target = below(process.pid, "python")[0] if prefix else process.pid
    os.kill(target, number)
    code, output = ended(process)
    assert (code, output) == (5, f"got {name}\n")


def test_orphans_are_reaped_and_none_is_left_behind() -> None:
    prefix = as_process_one()
    # Each grandchild loses its parent at once; zombies would show as <defunct>.
    process = start(
        "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 0.6; ps -eo stat= | grep -c Z; (sleep 4321 &); exit 3",
        prefix,
    )
    time.sleep(0.3)
    code, output = ended(process)
    assert code == 3
    if prefix:
        assert output.split() == ["0"]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 4321" not in listed


def test_child_that_ignores_sigterm_is_killed() -> None:
    process = start("(trap '' TERM; while :; do sleep 4322; done) & sleep 0.2; exit 4", as_process_one())
    began = time.monotonic()
    assert ended(process)[0] == 4
    assert time.monotonic() - began < 30
    assert "sleep 4322" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_lines_are_relayed_whole_and_observed(tmp_path: Path) -> None:
    script = tmp_path / "relay.py"
    script.write_text(
        "import os, sys\n"
        "from frcnn.container.init import Init\n"
        "seen = []\n"
        "code = Init().run(['bash', '-c', sys.argv[1]], os.environ, on_line=seen.append)\n"
        "print(code, seen)\n"
    )
    pieces = "printf 'one '; sleep 0.1; printf 'line\\n'; echo two >&2; printf unfinished; exit 6"
    done = subprocess.run([sys.executable, script, pieces], capture_output=True, text=True, check=True)
    assert done.stderr == "two\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "one line"
    assert lines[1].startswith("unfinished")
    assert "'one line'" in lines[1]
    assert "'two'" in lines[1]
    assert "'unfinished'" in lines[1]
