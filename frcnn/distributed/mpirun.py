"""``frcnn launch``: check every host, run a command with ``mpirun``, forward signals.

Open MPI 4.1 starts one daemon per host through ssh, which starts the ranks.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType

from frcnn.errors import UserError

CONNECT_SECONDS = 10
# A host that loses power closes no connection. mpirun notices it after 5 + 3 * 2 seconds with these, and after 484
# seconds with the keep-alive defaults of Linux.
KEEPALIVE = {"oob_tcp_keepalive_time": "5", "oob_tcp_keepalive_intvl": "2", "oob_tcp_keepalive_probes": "3"}
# Only these: with ^openib, which would replace the system's setting, libfabric (ofi) makes MPI_Finalize take a second.
TRANSPORTS = "self,vader,tcp"
# Prefixes of the environment variables that ranks inherit.
EXPORTED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "HOROVOD_",
    "NCCL_",
    "TF_",
    "CUDA_",
    "FRCNN_",
)
LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Host:
    """A machine and the number of ranks on it."""

    name: str
    ranks: int


def parse_hosts(text: str) -> list[Host]:
    """Parse ``"a:4,b:4"``; without a number, a host gets one rank.

    Raises:
        UserError: a part is not ``NAME`` or ``NAME:RANKS``, or a name occurs twice.
    """
    hosts = []
    for part in text.split(","):
        name, _, ranks = part.strip().partition(":")
        if not name or name.startswith("-") or not (ranks or "1").isdigit() or int(ranks or 1) < 1:
            raise UserError(f"--hosts contains {part!r}; expected NAME:PROCESSES, such as a:4,b:4")
        hosts.append(Host(name, int(ranks or 1)))
    names = [host.name for host in hosts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"--hosts names {', '.join(sorted(twice))} more than once; give each host once, with all its processes"
        )
    return hosts


def mpirun_command(hosts: Sequence[Host], arguments: Sequence[str], interface: str | None = None) -> list[str]:
    """The command line that runs ``frcnn ARGUMENTS`` on the hosts."""
    settings = {
        "pml": "ob1",
        "btl": TRANSPORTS,
        # Copies between processes need a capability that containers lack.
        "btl_vader_single_copy_mechanism": "none",
        # Connect to every host from here, so that hosts need no ssh access to each other.
        "plm_rsh_no_tree_spawn": "1",
        "plm_rsh_args": f"-o BatchMode=yes -o ConnectTimeout={CONNECT_SECONDS}",
        "orte_abort_on_non_zero_status": "1",
        **KEEPALIVE,
    }
    if interface:
        settings |= {"btl_tcp_if_include": interface, "oob_tcp_if_include": interface}
    exported = [name for name in os.environ if name.startswith(EXPORTED)]
    return [
        "mpirun",
        *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
        *(
            "--host",
            ",".join(f"{host.name}:{host.ranks}" for host in hosts),
            "-np",
            str(sum(host.ranks for host in hosts)),
        ),
        *("--bind-to", "none", "--map-by", "slot"),
        *(word for name, value in settings.items() for word in ("-mca", name, value)),
        *(word for name in sorted(exported) for word in ("-x", name)),
        *(("-x", f"NCCL_SOCKET_IFNAME={interface}") if interface else ()),
        *(sys.executable, "-m", "frcnn", *arguments),
    ]


def check_hosts(hosts: Sequence[Host]) -> list[str]:
    """One sentence per host on which ranks cannot be started; hosts are checked in parallel."""
    remote = [host.name for host in hosts if host.name not in LOCAL]
    with ThreadPoolExecutor(max_workers=max(1, min(len(remote), 64))) as pool:
        return [sentence for sentence in pool.map(_check_host, remote) if sentence]


def _check_host(name: str) -> str:
    python = shlex.quote(sys.executable)
    script = (
        f"command -v orted >/dev/null || exit 41; test -x {python} || exit 42; "
        f"{python} -c 'import frcnn, mpi4py, importlib.util as u; exit(0 if u.find_spec(\"horovod\") else 1)' "
        "|| exit 43"
    )
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", name, script]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=6 * CONNECT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{name}: ssh timed out after {6 * CONNECT_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"{name}: " + {
        41: "Open MPI (orted) is not on the PATH of ssh sessions; run scripts/install_system_packages.sh distributed "
        "there",
        42: f"{sys.executable} does not exist; install frcnn at the same path on every host",
        43: f"{sys.executable} cannot import frcnn, mpi4py or Horovod ({last}); run scripts/build_horovod.sh "
        "--install there",
        255: f"ssh failed ({last}); 'ssh {name} true' must work without a password or prompt",
    }.get(done.returncode, f"ssh exited with {done.returncode} ({last})")


def launch(hosts: Sequence[Host], arguments: Sequence[str], interface: str | None = None) -> int:
    """Run ``frcnn ARGUMENTS`` on the hosts and wait; returns mpirun's exit code, or 130 for a run stopped by Ctrl-C.

    The first Ctrl-C or SIGTERM asks the ranks to save and stop; the second one kills them.

    Raises:
        UserError: mpirun is missing, or hosts cannot be used; one sentence per host.
    """
    if not shutil.which("mpirun"):
        raise UserError("mpirun is not installed on this host; run scripts/install_system_packages.sh distributed")
    if problems := check_hosts(hosts):
        raise UserError("; ".join(problems))
    command = mpirun_command(hosts, arguments, interface)
    print(shlex.join(command), flush=True)
    received: list[int] = []
    mpirun: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if mpirun:
            # On SIGTERM mpirun kills the ranks within two seconds; SIGUSR1 it only forwards to them.
            mpirun.send_signal(signal.SIGUSR1 if len(received) == 1 else signal.SIGTERM)

    # Before mpirun starts, which would otherwise be left behind by a signal in between.
    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        # In a new session, so that Ctrl-C reaches only this process, which forwards a gentler signal.
        with subprocess.Popen(command, start_new_session=True) as mpirun:
            if received:
                mpirun.send_signal(signal.SIGTERM)
            code = mpirun.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    code = code if code >= 0 else 128 - code
    # Ranks know only the forwarded signal, and report a stop as 128 + SIGTERM. It terminates mpirun and ranks that have
    # not begun to handle signals.
    if received and code in (128 + signal.SIGUSR1, 128 + signal.SIGTERM):
        return 128 + (signal.SIGINT if received[0] == signal.SIGINT else signal.SIGTERM)
    return code
