"""What frcnn needs and can use, what this machine has of it, and how to get what is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from frcnn.startup import import_tensorflow

CPUINFO = Path("/proc/cpuinfo")
# CPU instructions that the kernels and TensorFlow use, oldest first.
CPU_FEATURES = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16")
PROBE_SECONDS = 120
# required package -> another package that provides the same modules
ALTERNATIVES = {"tensorflow": "tensorflow-cpu"}


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        topic: what was examined.
        found: the result.
        works: False if frcnn cannot run because of it.
        advice: how to get what is missing; empty if nothing is.
    """

    topic: str
    found: str
    works: bool = True
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Yield the findings as they are made; imports TensorFlow."""
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    try:
        requirements = importlib.metadata.requires("frcnn") or []
    except importlib.metadata.PackageNotFoundError:
        advice = "pip install -e . in frcnn's folder"
        yield Finding("frcnn", "not installed; the versions of the packages it needs were not compared", advice=advice)
    else:
        yield from required_packages(requirements)
    processor = describe_processor(CPUINFO.read_text() if CPUINFO.exists() else "")
    yield processor
    yield Finding("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    compiled = False
    if processor.works and importlib.util.find_spec("tensorflow"):
        yield _devices()
        kernels, compiled = _kernels()
        yield kernels
    yield _compiler(compiled)
    yield _horovod()
    yield _mpirun()
    yield from _container_programs()


def required_packages(requirements: list[str]) -> Iterator[Finding]:
    """Compare each requirement for this Python, without extras, with what is installed."""
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        advice = f"pip install '{requirement.name}{requirement.specifier}'"
        version = _installed(requirement.name)
        if version is None:
            yield Finding(requirement.name, "missing", works=False, advice=advice)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        found = version if fits else f"{version}, but {requirement.specifier} is needed"
        yield Finding(requirement.name, found, works=fits, advice="" if fits else advice)


def _installed(package: str) -> str | None:
    for name in (package, ALTERNATIVES.get(package)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if name:
                return importlib.metadata.version(name)
    return None


def describe_processor(cpuinfo: str) -> Finding:
    """CPU model, cores and instructions, from the text of ``/proc/cpuinfo``."""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())}
    flags = fields.get("flags", "").split()
    features = [feature for feature in CPU_FEATURES if feature in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{fields.get('model name') or platform.processor() or platform.machine()}, {cores} cores"
    if flags and "avx" not in flags:
        return Finding(
            "processor", f"{found}, no AVX", works=False, advice="TensorFlow's wheels need AVX; use another machine"
        )
    return Finding("processor", f"{found}; {' '.join(features) or 'instructions unknown'}")


def _devices() -> Finding:
    import_tensorflow()
    import tensorflow as tf

    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if names:
        return Finding("GPU", f"{len(names)} x {names[0]}" if len(set(names)) == 1 else ", ".join(names))
    if shutil.which("nvidia-smi"):
        advice = "pip install -e '.[gpu]' in frcnn's folder, or update the driver"
        return Finding("GPU", "none that TensorFlow can use, although nvidia-smi is installed", advice=advice)
    return Finding("GPU", "none; everything runs on the CPU")


def _kernels() -> tuple[Finding, bool]:
    """The kernels in use, and whether they are compiled ones."""
    from frcnn.ops.compiled import active_kernels

    active = active_kernels()
    where = f" ({active.library})" if active.library else ""
    return Finding("kernels", f"{active.description}{where}", advice=active.remedy), active.library is not None


def _compiler(compiled: bool) -> Finding:
    """The C++ compiler, which is needed unless the kernels are compiled already, as in the Docker image."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler:
        return Finding("C++ compiler", _first_line(compiler, "--version"))
    if compiled:
        return Finding("C++ compiler", "none, and none is needed: the kernels are compiled")
    return Finding("C++ compiler", "none", advice="the kernels are compiled at first use: apt-get install g++")


def _horovod() -> Finding:
    if not importlib.util.find_spec("horovod"):
        return Finding(
            "Horovod",
            "none; training uses one process",
            advice="for several: scripts/build_horovod.sh, or the Docker image",
        )
    # In a separate process: a Horovod built for another TensorFlow may crash its process.
    script = (
        "import horovod.tensorflow as h; print(*[n for n in ('mpi', 'gloo', 'nccl') if getattr(h, n + '_built')()])"
    )
    probe = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PROBE_SECONDS)
    version = importlib.metadata.version("horovod")
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        return Finding(
            "Horovod",
            f"{version} does not load: {reason}",
            advice="build it for this TensorFlow: scripts/build_horovod.sh",
        )
    return Finding("Horovod", f"{version} with {probe.stdout.strip() or 'no'} operations")


def _mpirun() -> Finding:
    mpirun = shutil.which("mpirun")
    if mpirun:
        return Finding("mpirun", _first_line(mpirun, "--version"))
    return Finding("mpirun", "none", advice="needed for training on several processes: apt-get install openmpi-bin")


def _container_programs() -> Iterator[Finding]:
    """What the endpoint and SageMaker's jobs use in addition."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    advice = "only for 'frcnn serve' behind nginx: apt-get install nginx"
    yield Finding("nginx", _first_line(nginx, "-v"), advice="") if nginx else Finding("nginx", "none", advice=advice)
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    advice = "only for training on several hosts: apt-get install openssh-server openssh-client"
    ssh = shutil.which("ssh")
    yield (
        Finding("sshd", f"{sshd}, {_first_line(ssh, '-V')}") if sshd and ssh else Finding("sshd", "none", advice=advice)
    )
    for package, extra, purpose in (
        ("gunicorn", "serve", "'frcnn serve'"),
        ("sagemaker-training", "container", "SageMaker's jobs"),
    ):
        version = _installed(package)
        advice = "" if version else f"only for {purpose}: pip install 'frcnn[{extra}]'"
        yield Finding(package, version or "none", advice=advice)


def _first_line(*command: str) -> str:
    output = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    return ((output.stdout or output.stderr).strip().splitlines() or ["found, but gives no version"])[0]
