"""The keys of a job, for SSH among others: the same on all its hosts, different for every job, never in the image.

The hosts cannot communicate before they have a key, so each derives it from the job's ARN. The ARN is not secret; where
others share the job's network, the variable ``FRCNN_SSH_SECRET`` adds a secret to the derivation.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from frcnn.container.environment import Environment
from frcnn.errors import UserError

HOST_KEYS = Path("/etc/ssh")
PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd exits without a message if it does not exist


def install_ssh_keys(environment: Environment, home: Path | None = None) -> None:
    """Install the job's key pair, unless this host has one, and what sshd needs to start.

    Raises:
        UserError: the job has neither ARN, name nor secret, or the folders cannot be written.
    """
    folder = (home or Path.home()) / ".ssh"
    try:
        if not list(folder.glob("id_*")):
            private, public = job_key(environment)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_secret(folder / "id_ed25519", private)
            _write_secret(folder / "authorized_keys", public)
        PRIVILEGE_SEPARATION.mkdir(parents=True, exist_ok=True)
        if not list(HOST_KEYS.glob("ssh_host_*_key")):
            subprocess.run(["ssh-keygen", "-A"], check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"SSH between the hosts cannot be set up ({error}); run the container as root, with a writable file system"
        ) from error


def job_key(environment: Environment) -> tuple[bytes, bytes]:
    """Private and public Ed25519 key in OpenSSH's formats, derived from the job's ARN (or name) and secret."""
    from cryptography.hazmat.primitives import serialization as keys
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not (environment.job_arn or environment.job_name or environment.ssh_secret):
        raise UserError(
            "the job has no name to derive the hosts' SSH key from: set TRAINING_JOB_ARN or FRCNN_SSH_SECRET to the "
            "same value on all hosts"
        )
    key = Ed25519PrivateKey.from_private_bytes(derive_key(environment, "frcnn"))
    private = key.private_bytes(keys.Encoding.PEM, keys.PrivateFormat.OpenSSH, keys.NoEncryption())
    return private, key.public_key().public_bytes(keys.Encoding.OpenSSH, keys.PublicFormat.OpenSSH) + b" frcnn-job\n"


def derive_key(environment: Environment, purpose: str) -> bytes:
    """32 bytes that all hosts of the job derive, and no other job; different for every purpose."""
    job = environment.job_arn or environment.job_name or ""
    return hashlib.sha256("\0".join((purpose, job, environment.ssh_secret or "")).encode()).digest()


def _write_secret(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
