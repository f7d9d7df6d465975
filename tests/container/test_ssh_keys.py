"""The key is the same on all hosts of a job and different for other jobs, and OpenSSH accepts it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from frcnn.container import ssh_keys
from frcnn.container.environment import Environment
from frcnn.container.ssh_keys import install_ssh_keys, job_key
from frcnn.errors import UserError


def environment(base: Path, **values: str) -> Environment:
    return dataclasses.replace(Environment.read({"SAGEMAKER_BASE_DIR": str(base)}), **values)  # type: ignore[arg-type]


def test_key_is_unique_to_the_job(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    first, other = environment(tmp_path, job_arn="arn:1"), environment(tmp_path, job_arn="arn:2")
    secret = environment(tmp_path, job_arn="arn:1", ssh_secret="s")
    assert job_key(first)[1] == job_key(environment(tmp_path / "another host", job_arn="arn:1"))[1]
    assert len({job_key(first)[1], job_key(other)[1], job_key(secret)[1]}) == 3
    with pytest.raises(UserError, match="the job has no name"):
        job_key(environment(tmp_path))


def test_openssh_accepts_the_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ssh_host_ed25519_key").write_text("a host key that is there")
    monkeypatch.setattr(ssh_keys, "HOST_KEYS", tmp_path / "etc")
    monkeypatch.setattr(ssh_keys, "PRIVILEGE_SEPARATION", tmp_path / "run")
    install_ssh_keys(environment(tmp_path, job_arn="arn:1"), home=tmp_path)
    key = tmp_path / ".ssh" / "id_ed25519"
    derived = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    authorized = (tmp_path / ".ssh" / "authorized_keys").read_text()
    assert derived.split()[:2] == authorized.split()[:2]
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    before = key.read_bytes()
    install_ssh_keys(environment(tmp_path, job_arn="arn:2"), home=tmp_path)  # an existing key is kept
    assert key.read_bytes() == before
