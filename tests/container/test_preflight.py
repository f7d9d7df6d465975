"""Jobs that cannot succeed end at once, with a reason: unwritable outputs, a missing program, no temporary folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_job import Container

from frcnn.container.environment import Environment
from frcnn.container.preflight import check_job
from frcnn.errors import UserError

MakeContainer = Callable[..., Container]
IN_NAMESPACE = ["unshare", "--mount", "sh", "-c"]

needs_mounts = pytest.mark.skipif(
    subprocess.run([*IN_NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode != 0,
    reason="mounts in a new namespace are not permitted",
)


@needs_mounts
@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("model", "ro", "where the model is saved, cannot be written (Read-only file system)"),
        ("model", "size=64k", "where the model is saved, cannot be written (No space left on device)"),
        ("output/data", "ro", "where reports are saved, cannot be written (Read-only file system)"),
        ("checkpoints", "size=64k", "where checkpoints are saved, cannot be written (No space left on device)"),
    ],
)
def test_unwritable_output_is_reported_at_the_start(
    make_container: MakeContainer, folder: str, options: str, message: str
) -> None:
    container = make_container()
    mount = f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(container.base / folder))}"
    container.start(
        "train", command=(*IN_NAMESPACE, f'{mount} && exec {sys.executable} -m frcnn.entrypoint "$@"', "sh")
    )
    assert container.wait() == 1
    assert message in container.failure
    assert "TensorFlow" not in container.log  # nothing has been imported yet


@needs_mounts
@pytest.mark.parametrize("command", ["train", "serve", "doctor"])
def test_read_only_container_without_temporary_folder(tmp_path: Path, command: str) -> None:
    # The repository, with its virtual environment, may itself be below a temporary folder: it stays visible, read-only.
    repository = shlex.quote(str(Path(__file__).resolve().parents[2]))
    steps = [f"mount --bind {repository} /mnt", "mount -t tmpfs tmpfs /tmp", "mount -t tmpfs tmpfs /var/tmp"]
    steps += [f"mkdir -p {repository}", f"mount --bind /mnt {repository}"]
    steps += [f"mount -o remount,ro {folder}" for folder in ("/tmp", "/var/tmp")]
    script = f"{' && '.join(steps)} && cd /proc && exec {sys.executable} -m frcnn.entrypoint {command}"
    kept = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    variables = {**kept, "SAGEMAKER_BASE_DIR": "/proc/nowhere", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*IN_NAMESPACE, script], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "frcnn: no folder for temporary files is writable" in done.stderr
    assert "Traceback" not in done.stderr


def environment(base: Path, **values: str) -> Environment:
    return Environment.read({"SAGEMAKER_BASE_DIR": str(base), **values})


def test_program_must_exist(tmp_path: Path) -> None:
    code = tmp_path / "code"
    job = environment(tmp_path, SAGEMAKER_PROGRAM="mine.py")
    with pytest.raises(UserError, match=rf"'mine.py', which is not in {re.escape(str(code))} \(found: nothing\)"):
        check_job(job, toolkit=True)
    code.mkdir()
    (code / "other.py").touch()
    with pytest.raises(UserError, match=r"\(found: other.py\)"):
        check_job(job, toolkit=True)
    (code / "mine.py").touch()
    check_job(job, toolkit=True)


@pytest.mark.parametrize("source", ["s3://bucket/sourcedir.tar.gz", "folder", "package", "archive"])
def test_program_may_come_from_a_submit_directory(tmp_path: Path, source: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.py").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "setup.py").touch()
    (tmp_path / "archive").touch()
    config = tmp_path / "ml" / "input" / "config"
    config.mkdir(parents=True)
    address = source if source.startswith("s3:") else tmp_path / source
    (config / "hyperparameters.json").write_text(f'{{"sagemaker_submit_directory": "{address}"}}')
    check_job(environment(tmp_path / "ml", SAGEMAKER_PROGRAM="mine.py"), toolkit=True)
    (tmp_path / "ml" / "code").mkdir()
    (tmp_path / "ml" / "code" / "other.py").touch()  # the toolkit copies nothing into a folder that is not empty
    with pytest.raises(UserError, match="which is not in"):
        check_job(environment(tmp_path / "ml", SAGEMAKER_PROGRAM="mine.py"), toolkit=True)
