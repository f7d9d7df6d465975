"""Failures of a run on two hosts: all ranks exit soon, and the exit code and the first message give the reason.

Times are printed, and asserted loosely: 30 seconds for what processes notice themselves, 60 for a host that vanishes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rank_hosts import HERE, Running, TwoHosts, mpirun, processes

from frcnn.distributed.mpirun import Host, mpirun_command
from frcnn.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("horovod")
Start = Callable[..., Running]
# Ends only by the test's action; its step has no norms, so that it is traced sooner.
ENDLESS = ("training.epochs=500", "training.checkpoint_minutes=60", "backbone.norm=frozen_bn")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def start(two_hosts: TwoHosts, recipe: Path, output: Path, tmp_path: Path) -> Iterator[Start]:
    """``frcnn launch`` on alpha with a rank on each host, after its first steps."""
    started: list[Running] = []

    def run(*overrides: str) -> Running:
        arguments = [
            "launch",
            "--hosts",
            "alpha:1,beta:1",
            "--interface",
            "eth0",
            "--",
            "train",
            "--config",
            str(recipe),
        ]
        words = [sys.executable, "-m", "frcnn", *arguments, f"output={output}", *ENDLESS, *overrides]
        started.append(Running(two_hosts.command("alpha", *words), tmp_path / "log"))
        started[-1].wait_for("train step=3 ")
        return started[-1]

    yield run
    two_hosts.plug("up")
    for running in started:
        running.kill()
    for pid in ranks(output):
        os.kill(pid, signal.SIGKILL)


def ranks(output: Path) -> list[int]:
    """Process ids of the run's ranks on all hosts, as seen from this machine."""
    return [pid for pid in processes(f"output={output}", "frcnn train") if _name(pid).startswith("python")]


def rank_on(two_hosts: TwoHosts, host: str, output: Path) -> int:
    (rank,) = _of_host(two_hosts, host, ranks(output))
    return rank


def _of_host(two_hosts: TwoHosts, host: str, pids: list[int]) -> list[int]:
    namespace = os.readlink(f"/proc/{two_hosts.init_of(host)}/ns/pid")
    return [pid for pid in pids if os.readlink(f"/proc/{pid}/ns/pid") == namespace]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def gone(output: Path, seconds: float) -> float:
    """Wait until no rank is left on any host; returns the seconds."""
    begin = time.monotonic()
    while left := ranks(output):
        assert time.monotonic() - begin < seconds, f"still running after {seconds} s: {left}"
        time.sleep(0.1)
    return time.monotonic() - begin


def report(what: str, code: int, seconds: float, running: Running, words: str) -> None:
    line = next((line for line in running.text().splitlines() if words in line), "no such line")
    print(f"MEASURED | {what} | {code} | {seconds:.1f} s | {line.strip()} |")


def test_killed_rank(two_hosts: TwoHosts, start: Start, output: Path) -> None:
    running = start()
    os.kill(rank_on(two_hosts, "beta", output), signal.SIGKILL)
    code, seconds = running.end()
    seconds += gone(output, 30)
    report("SIGKILL of the rank on beta", code, seconds, running, "exited on signal 9")
    assert code == 137
    assert "rank 1 with PID" in running.text()
    assert "on node beta exited on signal 9" in running.text()
    assert seconds < 30


def test_killed_daemon(two_hosts: TwoHosts, start: Start, output: Path) -> None:
    running = start()
    (daemon,) = _of_host(two_hosts, "beta", [pid for pid in processes("orted") if _name(pid) == "orted"])
    os.kill(daemon, signal.SIGKILL)
    code, seconds = running.end()
    seconds += gone(output, 30)
    report("SIGKILL of orted on beta", code, seconds, running, "lost communication")
    assert code != 0
    assert "lost communication with a remote daemon" in " ".join(running.text().split())
    assert seconds < 30


def test_unplugged_host(two_hosts: TwoHosts, start: Start, output: Path) -> None:
    running = start()
    two_hosts.plug("down")
    code, seconds = running.end()
    seconds += gone(output, 60)
    report("link of beta down", code, seconds, running, "lost communication")
    assert code != 0
    assert "beta" in running.text()
    assert seconds < 60


def test_stopped_process_is_named(two_hosts: TwoHosts, start: Start, output: Path) -> None:
    running = start("distributed.stall_minutes=0.5")
    os.kill(rank_on(two_hosts, "beta", output), signal.SIGSTOP)
    code, seconds = running.end()
    seconds += gone(output, 30)
    report("SIGSTOP of the rank on beta, stall_minutes=0.5", code, seconds, running, "no progress")
    assert code == 1
    assert "frcnn: rank 1 on beta: no progress for 30 seconds" in running.text()
    assert "Traceback" not in running.text()


def test_exception_on_one_rank_is_told_first(two_hosts: TwoHosts, recipe: Path, tmp_path: Path) -> None:
    line = mpirun_command([Host("alpha", 1), Host("beta", 1)], [], "eth0")
    line = [*line[: line.index("-m")], str(HERE / "rank_checks.py"), str(recipe), str(tmp_path), "fails"]
    running = Running(two_hosts.command("alpha", *line), tmp_path / "log")
    running.wait_for("rank 1 on beta")
    begin = time.monotonic()
    code, _ = running.end()
    assert not processes("rank_checks.py", str(tmp_path))
    report("an exception on rank 1", code, time.monotonic() - begin, running, "rank 1 on beta")
    assert code == 1
    own = running.text().index("frcnn: rank 1 on beta: ZeroDivisionError: float division by zero\nTraceback")
    assert own < running.text().index("MPI_ABORT")
    assert "rank 0 on" not in running.text()


def test_rank_0_may_work_alone_for_longer_than_the_watchdogs_limit(recipe: Path, tmp_path: Path) -> None:
    done = mpirun(3, str(HERE / "rank_checks.py"), str(recipe), str(tmp_path), "rank_0_works_alone")
    assert done.returncode == 0, done.stderr
    assert "no progress" not in done.stderr


def test_a_rank_that_lost_the_others_says_so_in_one_sentence(recipe: Path, tmp_path: Path) -> None:
    done = mpirun(2, str(HERE / "rank_checks.py"), str(recipe), str(tmp_path), "loses_others")
    assert done.returncode == 1
    assert re.search(
        r"frcnn: rank 1 on .+: lost the other ranks \(Exception: MPI_ERR_COMM.*\); see the first message", done.stderr
    )
    assert "Traceback" not in done.stderr


def test_sigterm_to_the_launcher_saves_and_another_number_of_ranks_resumes(
    two_hosts: TwoHosts, start: Start, output: Path, recipe: Path
) -> None:
    running = start()
    (launcher,) = [pid for pid in processes("frcnn launch", f"output={output}") if _name(pid).startswith("python")]
    os.kill(launcher, signal.SIGTERM)
    code, seconds = running.end()
    seconds += gone(output, 30)
    report("SIGTERM to frcnn launch", code, seconds, running, "saved a checkpoint at step")
    assert code == 143, running.text()
    assert "saved a checkpoint at step" in running.text()
    found = Checkpoints(output / "checkpoints", 2, print).latest()
    assert found is not None
    assert found.step >= 3
    # Resume on three ranks: a batch of 2 cannot be split evenly over 3, so a step takes 3 images.
    end = f"training.epochs={(found.step / 12) + 0.3}"
    again = mpirun(3, "-m", "frcnn", "train", "--config", str(recipe), f"output={output}", *ENDLESS, end)
    assert again.returncode == 0, again.stderr
    assert "training.batch_size=2 cannot be split evenly over 3 processes; using 3 images per step" in again.stdout
    assert (
        f"an epoch now has 8 steps instead of 12: step {found.step} became {round(found.step * 8 / 12)}" in again.stdout
    )
