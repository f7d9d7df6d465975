"""What a job runs on, as it says at its start."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import tensorflow as tf

from frcnn.container.environment import Environment
from frcnn.container.input_files import InputChannel
from frcnn.gpus import driver_version, management_library, read_gpus
from frcnn.training.folders import Folders

EFA_DEVICES = Path("/dev/infiniband")
PACKAGES = (
    "frcnn",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "horovod",
    "mpi4py",
    "sagemaker-training",
    "nvidia-nccl-cu12",
)
MOST_FILES = 100_000  # that are looked at for a channel's size: in FastFile mode each costs a request


def describe_job(environment: Environment, folders: Folders, hosts: Sequence[str]) -> Iterator[str]:
    """Lines for the log: the job, machine, devices, network, versions, channels, ranks, and what becomes of an interruption.

    Args:
        hosts: of each rank.
    """
    resources = environment.resources
    count = len(resources.hosts)
    yield f"job: {environment.job_name or 'without a name'}, {count} x {resources.instance_type or 'this machine'}, {len(hosts)} processes"
    yield f"host: {resources.current_host}, {os.cpu_count()} processors, {_memory_gib():.0f} GiB memory, Linux {platform.release()}"
    yield f"GPUs: {_gpus()}"
    renamed = (
        "" if resources.interface == resources.wanted_interface else f" (SageMaker said {resources.wanted_interface})"
    )
    yield f"network: {resources.interface}{renamed}, EFA: {_efa_devices() or 'none'}, Open MPI: {_open_mpi() or 'none'}"
    yield f"versions: Python {platform.python_version()}, {', '.join(_versions())}"
    for channel in environment.channels:
        yield f"channel {channel.name}: {channel.mode}, {channel_size(channel)}"
    yield f"ranks: {'; '.join(ranks_by_host(hosts))}"
    kept = (
        ""
        if environment.checkpoints
        else ", which no one keeps: an interrupted job starts afresh (set a checkpoint location)"
    )
    yield f"checkpoints: {folders.checkpoints}{kept}"


def ranks_by_host(hosts: Sequence[str]) -> list[str]:
    """``"host: its ranks"``, of each rank's host."""
    return [
        f"{host}: {' '.join(str(rank) for rank, its in enumerate(hosts) if its == host)}"
        for host in dict.fromkeys(hosts)
    ]


def channel_size(channel: InputChannel) -> str:
    if channel.mode == "Pipe":
        return f"a stream, {channel.record_wrapper}"
    if not channel.folder.is_dir():
        return "no folder"
    files = list(islice((path for path in channel.folder.rglob("*") if path.is_file()), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        return f"more than {MOST_FILES} files"
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def _gpus() -> str:
    with management_library() as library:
        gpus = read_gpus(library)
    if not gpus:
        return "none"
    build: dict[str, Any] = tf.sysconfig.get_build_info()
    kinds = ", ".join(sorted({f"{gpu.name} ({gpu.memory_gib:.0f} GiB)" for gpu in gpus}))
    cuda = f"CUDA {build.get('cuda_version', 'unknown')}, cuDNN {build.get('cudnn_version', 'unknown')}"
    seen = len(tf.config.list_physical_devices("GPU"))
    return f"{len(gpus)} x {kinds}, driver {driver_version()}, TensorFlow built with {cuda}, sees {seen}"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _efa_devices() -> int:
    return len(list(EFA_DEVICES.glob("uverbs*"))) if EFA_DEVICES.is_dir() else 0


def _open_mpi() -> str | None:
    """Version of the library that joins the ranks; of the launcher where this process has none loaded."""
    if loaded := sys.modules.get("mpi4py.MPI"):
        answer = loaded.Get_library_version()
    elif program := shutil.which("mpirun"):
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    else:
        return None
    match = re.search(r"Open MPI\D*([\d.]+)", answer)
    return match[1] if match else None


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
