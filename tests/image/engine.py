"""A real Docker engine and registries on this machine, and a simulated AWS, stopped after the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNT, REGION = "123456789012", "us-east-1"  # moto's account
ECR = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ECR_ADDRESS = "127.0.0.2"
ECR_PASSWORD = f"{ACCOUNT}-auth-token"  # the token of moto's get-authorization-token
DOCKER = os.environ.get("DOCKER", "docker")  # the client
NEEDED = ("dockerd", DOCKER, "docker-registry", "htpasswd", "openssl", "unshare", "aws")


def missing() -> list[str]:
    """Requirements that this machine lacks."""
    lacking = [program for program in NEEDED if not shutil.which(program)]
    return lacking if os.geteuid() == 0 else ["root", *lacking]


@dataclass
class Daemons:
    """Background programs, which run until :meth:`stop`."""

    folder: Path
    running: list[subprocess.Popen] = field(default_factory=list)

    def start(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        self.running.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self.running):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def wait_for(what: str, ready, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {seconds:.0f} s")
        time.sleep(0.2)


def responds(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True  # an HTTP error is a response
    except OSError:
        return False
    return True


def start_engine(daemons: Daemons, data: Path) -> str:
    """Start a dockerd that resolves ECR's host name to our registry and trusts its certificate; returns DOCKER_HOST.

    The machine's files and firewall rules stay unchanged: both files are bind-mounted in dockerd's mount namespace.
    """
    folder = daemons.folder
    (folder / "hosts").write_text(Path("/etc/hosts").read_text() + f"\n{ECR_ADDRESS} {ECR}\n")
    certificates = folder / "etc-docker" / "certs.d" / ECR
    certificates.mkdir(parents=True)
    shutil.copy(folder / "ca.crt", certificates / "ca.crt")
    socket = f"unix://{folder}/docker.sock"
    script = (
        f"mkdir -p /etc/docker && mount --bind {folder}/hosts /etc/hosts && "
        f"mount --bind {folder}/etc-docker /etc/docker && "
        f"exec dockerd --data-root {data} --exec-root {folder}/exec --pidfile {folder}/docker.pid --host {socket} "
        "--default-ulimit nofile=20000:20000 --oom-score-adjust 0 "
        "--bip 198.18.0.1/24 --default-address-pool base=198.18.64.0/18,size=24 "
        "--iptables=false --ip6tables=false --ip-forward=false --ip-masq=false"
    )
    daemons.start("dockerd", "unshare", "--mount", "sh", "-c", script)
    listening = [DOCKER, "--host", socket, "version"]
    wait_for("dockerd", lambda: subprocess.run(listening, capture_output=True, check=False).returncode == 0)
    return socket


def make_certificates(folder: Path) -> None:
    """A certificate authority valid for a day, and a certificate for ECR's host name."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "1", "-subj", "/CN=tests")
    openssl("req", *new_key, "-keyout", "ecr.key", "-out", "ecr.csr", "-subj", f"/CN={ECR}")
    (folder / "names").write_text(f"subjectAltName=DNS:{ECR}\n")
    openssl(
        "x509",
        "-req",
        "-in",
        "ecr.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-out",
        "ecr.crt",
        "-days",
        "1",
        "-extfile",
        "names",
    )


def start_registry(daemons: Daemons, name: str, address: str, user: str, password: str, tls: bool) -> None:
    """Start a registry that requires a password."""
    folder = daemons.folder
    subprocess.run(["htpasswd", "-Bbc", folder / f"{name}.htpasswd", user, password], check=True, capture_output=True)
    certificate = f"  tls:\n    certificate: {folder}/ecr.crt\n    key: {folder}/ecr.key\n" if tls else ""
    (folder / f"{name}.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/{name}\n"
        f"http:\n  addr: {address}\n{certificate}"
        f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/{name}.htpasswd\n"
    )
    daemons.start(name, "docker-registry", "serve", folder / f"{name}.yml")
    if not tls:
        wait_for(name, lambda: responds(f"http://{address}/v2/"))


@contextlib.contextmanager
def stopped_at_the_end(folder: Path) -> Iterator[Daemons]:
    daemons = Daemons(folder)
    try:
        yield daemons
    finally:
        daemons.stop()
