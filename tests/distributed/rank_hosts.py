"""Starts ranks for tests: by mpirun on this machine, and on two "hosts", Linux namespaces with an SSH daemon each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
# Without it, ranks that wait spin and take the cores from those that compute.
YIELD = ["-mca", "mpi_yield_when_idle", "1"]
ADDRESSES = {"alpha": "198.18.7.1", "beta": "198.18.7.2"}  # RFC 2544: reserved for network tests


def mpirun(ranks: int, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """Run a Python file with arguments on ``ranks`` ranks of this machine."""
    command = [
        "mpirun",
        "--allow-run-as-root",
        "--oversubscribe",
        "--bind-to",
        "none",
        *YIELD,
        "-np",
        str(ranks),
        sys.executable,
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


class Running:
    """A command in the background, its output in a file."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, seconds: float = 400) -> None:
        """Wait until the output contains the text."""
        end = time.monotonic() + seconds
        while text not in self.text():
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {text!r}:\n{self.text()}"
            assert time.monotonic() < end, f"no {text!r} within {seconds} s:\n{self.text()}"
            time.sleep(0.1)

    def end(self, seconds: float = 200) -> tuple[int, float]:
        """Wait for the end; returns exit code and seconds waited."""
        start = time.monotonic()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.text()}") from None
        return code, time.monotonic() - start

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def processes(*words: str) -> list[int]:
    """Ids of live processes whose command line contains all the words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words) and line:
                found.append(int(entry.name))
    return found


class TwoHosts:
    """Hosts ``alpha`` and ``beta`` with their own network, hostname, processes, /etc/hosts and sshd, and a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in ADDRESSES.items())
        )
        (folder / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
        (folder / "ssh_config").write_text(
            f"IdentityFile {key}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nUser root\n"
        )
        (folder / "sshd_config").write_text(
            f"HostKey {key}\nAuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PermitRootLogin yes\n"
        )
        # No environment variable sets ssh's configuration file, so a wrapper named ssh passes it.
        (folder / "bin").mkdir()
        (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        (folder / "bin" / "ssh").chmod(0o755)
        self.holders = {name: self._start(name) for name in ADDRESSES}
        self._connect()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        inside = (
            f"hostname {name} && mount --bind {self.folder}/hosts /etc/hosts && mkdir -p /run/sshd && "
            "ip link set lo up && "
            f"exec /usr/sbin/sshd -D -e -f {self.folder}/sshd_config"
        )
        isolated = [
            "unshare",
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            inside,
        ]
        return subprocess.Popen(isolated, stdout=subprocess.DEVNULL, stderr=(self.folder / f"{name}.log").open("wb"))

    def _connect(self) -> None:
        time.sleep(0.5)
        pids = {name: self.init_of(name) for name in self.holders}
        # Interface names have at most 15 characters, and must not clash with tests that run in parallel.
        ends = {name: f"f{os.getpid() % 10**6}{name[0]}" for name in self.holders}
        subprocess.run(["ip", "link", "add", ends["alpha"], "type", "veth", "peer", "name", ends["beta"]], check=True)
        for name, address in ADDRESSES.items():
            subprocess.run(["ip", "link", "set", ends[name], "netns", str(pids[name]), "name", "eth0"], check=True)
            self.run(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            self.run(name, "ip", "link", "set", "eth0", "up")
        self._wait_for_ssh()

    def _wait_for_ssh(self) -> None:
        end = time.monotonic() + 20
        while self.run("alpha", "ssh", "-o", "ConnectTimeout=2", "beta", "true", check=False).returncode:
            assert time.monotonic() < end, (self.folder / "beta.log").read_text()
            time.sleep(0.3)

    def init_of(self, name: str) -> int:
        """Process id of the host's process 1, as seen from this machine."""
        children = Path(f"/proc/{self.holders[name].pid}/task/{self.holders[name].pid}/children").read_text().split()
        return int(children[0])

    def command(self, name: str, *words: str) -> list[str]:
        """The command that runs the words on a host."""
        namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid"]
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return [
            "nsenter",
            "--target",
            str(self.init_of(name)),
            *namespaces,
            f"--wd={Path.cwd()}",
            "env",
            f"PATH={path}",
            *words,
        ]

    def run(self, name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(name, *words), capture_output=True, text=True, check=check)

    def plug(self, state: str) -> None:
        """Set the link ``up`` or ``down``."""
        self.run("beta", "ip", "link", "set", "eth0", state)
        if state == "up":
            self._wait_for_ssh()

    def close(self) -> None:
        for holder in self.holders.values():
            holder.kill()
            holder.wait()
