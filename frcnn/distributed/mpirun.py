"""Starting a verb on several hosts: the ``mpirun`` line, a look at every host first, signals on their way.

Open MPI 4.1 starts one daemon a host through ssh, and that starts the ranks.
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
# A host that vanishes closes no connection. With the system's own keep-alive mpirun noticed it after 484 seconds; so after 5 + 3 * 2.
KEEPALIVE = {"oob_tcp_keepalive_time": "5", "oob_tcp_keepalive_intvl": "2", "oob_tcp_keepalive_probes": "3"}
EXPORTED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "HOROVOD_",
    "NCCL_",
    "TF_",
    "CUDA_",
    "FRCNN_",
)  # beginnings of variables that go along
LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Host:
    """A machine and how many ranks it gets."""

    name: str
    ranks: int


def parse_hosts(text: str) -> list[Host]:
    """``"a:4,b:4"``; without a number, one rank.

    Raises:
        UserError: a part is not ``NAME`` or ``NAME:RANKS``, or a name stands twice.
    """
    hosts = []
    for part in text.split(","):
        name, _, ranks = part.strip().partition(":")
        if not name or name.startswith("-") or not (ranks or "1").isdigit() or int(ranks or 1) < 1:
            raise UserError(f"--hosts has {part!r}; expected names with numbers of processes, such as a:4,b:4")
        hosts.append(Host(name, int(ranks or 1)))
    names = [host.name for host in hosts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"--hosts names {', '.join(sorted(twice))} more than once; give each host once, with all its processes"
        )
    return hosts


def mpirun_command(hosts: Sequence[Host], arguments: Sequence[str], interface: str | None = None) -> list[str]:
    """The line that runs ``frcnn ARGUMENTS`` on the hosts."""
    settings = {
        "pml": "ob1",
        "btl": "^openib",
        # Its copies between processes need rights that containers withhold.
        "btl_vader_single_copy_mechanism": "none",
        # From here to every host directly: hosts need not reach each other by ssh.
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
        *(sys.executable, "-m", "frcnn.cli", *arguments),
    ]


def check_hosts(hosts: Sequence[Host]) -> list[str]:
    """One sentence for every host on which ranks could not be started; all are asked at once."""
    remote = [host.name for host in hosts if host.name not in LOCAL]
    with ThreadPoolExecutor(max_workers=max(1, min(len(remote), 64))) as pool:
        return [sentence for sentence in pool.map(_check_host, remote) if sentence]


def _check_host(name: str) -> str:
    python = shlex.quote(sys.executable)
    look = (
        f"command -v orted >/dev/null || exit 41; test -x {python} || exit 42; "
        f"{python} -c 'import frcnn, mpi4py, importlib.util as u; exit(0 if u.find_spec(\"horovod\") else 1)' || exit 43"
    )
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", name, look]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=6 * CONNECT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{name}: ssh got no answer within {6 * CONNECT_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"{name}: " + {
        41: "Open MPI is not on the PATH of its ssh sessions (no orted); run scripts/install_system_packages.sh distributed there",
        42: f"there is no {sys.executable}; frcnn must be installed at the same place on every host",
        43: f"frcnn, mpi4py or Horovod cannot be imported by {sys.executable} there ({last}); run scripts/build_horovod.sh --install there",
        255: f"ssh fails ({last}); 'ssh {name} true' must work without a password or question",
    }.get(done.returncode, f"ssh ended with {done.returncode} ({last})")


def launch(hosts: Sequence[Host], arguments: Sequence[str], interface: str | None = None) -> int:
    """Run ``frcnn ARGUMENTS`` as one rank per process asked for, and wait. Returns mpirun's exit code.

    Ctrl-C or SIGTERM asks the ranks to save and stop; another one ends them.

    Raises:
        UserError: mpirun is missing, or a host cannot be used: one sentence each.
    """
    if not shutil.which("mpirun"):
        raise UserError("mpirun is not installed here; run scripts/install_system_packages.sh distributed")
    if problems := check_hosts(hosts):
        raise UserError("; ".join(problems))
    command = mpirun_command(hosts, arguments, interface)
    print(shlex.join(command), flush=True)
    # Of its own session: a Ctrl-C on the terminal reaches this process alone, which passes on something gentler.
    with subprocess.Popen(command, start_new_session=True) as mpirun:
        asked = 0

        def pass_on(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked += 1
            # mpirun answers SIGTERM by killing the ranks within two seconds. SIGUSR1 it hands to each of them and goes on.
            mpirun.send_signal(signal.SIGUSR1 if asked == 1 else signal.SIGTERM)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            code = mpirun.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code if code >= 0 else 128 - code
