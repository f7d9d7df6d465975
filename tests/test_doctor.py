"""The findings of doctor and its advice."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from frcnn import doctor
from frcnn.doctor import describe_processor, examine, required_packages


def test_this_machine_works() -> None:
    findings = {finding.topic: finding for finding in examine()}
    assert all(finding.works for finding in findings.values())
    assert findings["tensorflow"].found == importlib.metadata.version("tensorflow")
    assert {"Python", "keras", "processor", "memory", "GPU", "kernels", "C++ compiler", "Horovod", "mpirun"} <= set(
        findings
    )


def test_missing_and_wrong_packages_are_named_with_the_command_that_fixes_them() -> None:
    requirements = [
        "numpy>=1.0",
        "numpy<1",
        "no-such-package>=3",
        "no-such-extra; extra == 'serve'",
        "no-such-python; python_version < '3.0'",
    ]
    fine, wrong, missing = required_packages(requirements)
    assert (fine.works, fine.advice) == (True, "")
    assert (wrong.works, wrong.advice) == (False, "pip install 'numpy<1'")
    assert wrong.found == f"{importlib.metadata.version('numpy')}, but <1 is needed"
    assert (missing.topic, missing.found, missing.works) == ("no-such-package", "missing", False)
    assert missing.advice == "pip install 'no-such-package>=3'"


def test_without_installation_the_other_findings_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", not_found)
    findings = {finding.topic: finding for finding in examine()}
    assert findings["frcnn"].found.startswith("not installed")
    assert findings["frcnn"].works
    assert {"GPU", "kernels"} <= set(findings)


def test_an_alternative_package_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.ALTERNATIVES, "no-such-package", "numpy")
    right, wrong = required_packages(["no-such-package>=1", "no-such-package<1"])
    assert (right.found, right.works) == (importlib.metadata.version("numpy"), True)
    assert not wrong.works


def test_a_gpu_that_tensorflow_does_not_see_differs_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: [])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert doctor._devices().advice == ""
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert doctor._devices().advice == "pip install -e '.[gpu]' in frcnn's folder, or update the driver"


def test_compiler_is_not_advised_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert doctor._compiler(compiled=True).advice == ""
    assert "apt-get install g++" in doctor._compiler(compiled=False).advice


def test_programs_of_the_container_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, line in (("nginx", "nginx version: nginx/1.22.1"), ("ssh", "OpenSSH_9.2p1"), ("sshd", "unused")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {line} >&2\n")  # both print their versions on standard error
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    found = {finding.topic: finding for finding in doctor._container_programs()}
    assert list(found) == ["nginx", "sshd", "gunicorn", "sagemaker-training"]
    assert found["nginx"].found == "nginx version: nginx/1.22.1"
    assert found["sshd"].found == f"{tmp_path}/sshd, OpenSSH_9.2p1"
    assert found["gunicorn"].found == importlib.metadata.version("gunicorn")


def test_a_cpu_without_avx_is_reported_before_tensorflow_aborts() -> None:
    old = describe_processor("processor : 0\nmodel name : Old One\nflags : fpu sse sse2\n")
    assert not old.works
    assert old.found.startswith("Old One, ")
    assert "AVX" in old.advice
    new = describe_processor("model name : New One\nflags : fpu avx avx2 fma avx512f\n")
    assert new.works
    assert new.found.endswith("avx avx2 fma avx512f")
    assert describe_processor("").works  # not Linux: nothing is known
