"""The mpirun command line, and messages about hosts that cannot be used."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rank_hosts import TwoHosts

from frcnn.distributed.mpirun import Host, check_hosts, mpirun_command, parse_hosts
from frcnn.errors import UserError


def test_hosts() -> None:
    assert parse_hosts("a:4,b:2") == [Host("a", 4), Host("b", 2)]
    assert parse_hosts("localhost") == [Host("localhost", 1)]


@pytest.mark.parametrize("text", ["", "a:0", "a:x", "a:2,", ":3", "-oProxyCommand=x:1", "a:-1"])
def test_bad_hosts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected NAME:PROCESSES, such as a:4,b:4"):
        parse_hosts(text)


def test_host_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="names a more than once"):
        parse_hosts("a:1,b:1,a:2")


def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_TIMELINE", "t.json")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    line = mpirun_command([Host("a", 4), Host("b", 2)], ["train", "x=1"], "eth0")
    pairs = {(name, value) for kind, name, value in zip(line, line[1:], line[2:], strict=False) if kind == "-mca"}
    assert {
        ("oob_tcp_keepalive_time", "5"),
        ("oob_tcp_keepalive_intvl", "2"),
        ("oob_tcp_keepalive_probes", "3"),
    } <= pairs
    assert {
        ("btl_tcp_if_include", "eth0"),
        ("oob_tcp_if_include", "eth0"),
        ("orte_abort_on_non_zero_status", "1"),
    } <= pairs
    assert len(pairs) == len({name for name, _ in pairs}) == line.count("-mca")  # mpirun refuses duplicates
    assert line[line.index("--host") + 1] == "a:4,b:2"
    assert line[line.index("-np") + 1] == "6"
    exported = {value for kind, value in itertools.pairwise(line) if kind == "-x"}
    assert {"PATH", "HOROVOD_TIMELINE", "NCCL_SOCKET_IFNAME=eth0"} <= exported
    assert "secret" not in " ".join(line)
    assert "AWS_SECRET_ACCESS_KEY" not in exported
    assert line[-5:] == [sys.executable, "-m", "frcnn", "train", "x=1"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_before_the_ranks_handle_signals_is_a_stop(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The forwarded SIGUSR1 then terminates mpirun, here a program that handles no signals."""
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho started\nexec sleep 600\n")
    (tmp_path / "mpirun").chmod(0o755)
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from frcnn.distributed.mpirun import launch, parse_hosts\n"
        "sys.exit(launch(parse_hosts('localhost:2'), ['train']))"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        while run.stdout.readline() != "started\n":
            assert run.poll() is None
        run.send_signal(number)
        assert run.wait() == code


def test_every_unusable_host_is_reported() -> None:
    sentences = check_hosts([Host("localhost", 2), Host("no-such-host.invalid", 1), Host("neither.invalid", 1)])
    assert [sentence.split(":")[0] for sentence in sentences] == ["no-such-host.invalid", "neither.invalid"]
    assert all("ssh failed (" in sentence and "must work without a password" in sentence for sentence in sentences)


def test_hosts_are_checked_over_real_ssh(two_hosts: TwoHosts) -> None:
    script = (
        "from frcnn.distributed.mpirun import *; import sys; sys.executable = sys.argv[1]; "
        "print(check_hosts(parse_hosts('beta:1')))"
    )
    assert two_hosts.run("alpha", sys.executable, "-c", script, sys.executable).stdout == "[]\n"
    missing = two_hosts.run("alpha", sys.executable, "-c", script, "/no/python").stdout
    assert missing == "['beta: /no/python does not exist; install frcnn at the same path on every host']\n"
    bare = two_hosts.run("alpha", sys.executable, "-c", script, "/usr/bin/python3").stdout
    assert "beta: /usr/bin/python3 cannot import frcnn, mpi4py or Horovod" in bare
