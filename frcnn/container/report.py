"""What a job runs on: the lines printed when training starts."""

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
from frcnn.gpus import count_gpus, driver_version, management_library, read_gpus
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
MAX_FILES = 100_000  # counted for a channel's size: in FastFile mode each file costs a request


def describe_job(environment: Environment, folders: Folders, hosts: Sequence[str]) -> Iterator[str]:
    """Lines for the log: job, machine, devices, network, versions, channels, ranks, and where checkpoints go.

    Args:
        hosts: the host of each rank.
    """
    resources = environment.resources
    count = len(resources.hosts)
    machines = f"{count} x {resources.instance_type or 'this machine'}"
    yield f"job: {environment.job_name or 'unnamed'}, {machines}, {len(hosts)} processes"
    memory = f"{_memory_gib():.0f} GiB memory"
    yield f"host: {resources.current_host}, {os.cpu_count()} CPUs, {memory}, Linux {platform.release()}"
    yield f"GPUs: {_gpus()}"
    renamed = (
        ""
        if resources.interface == resources.wanted_interface
        else f" ({resources.wanted_interface} of resourceconfig.json does not exist)"
    )
    yield f"network: {resources.interface}{renamed}, EFA: {_efa_devices() or 'none'}, Open MPI: {_open_mpi() or 'none'}"
    yield f"versions: Python {platform.python_version()}, {', '.join(_versions())}"
    for channel in environment.channels:
        yield f"channel {channel.name}: {channel.mode}, {channel_size(channel)}"
    yield f"ranks: {'; '.join(ranks_by_host(hosts))}"
    kept = (
        ""
        if environment.checkpoints
        else ", not uploaded: an interrupted job starts from scratch (configure a checkpoint location)"
    )
    yield f"checkpoints: {folders.checkpoints}{kept}"


def ranks_by_host(hosts: Sequence[str]) -> list[str]:
    """``"host: rank rank …"`` for each host; ``hosts`` holds the host of each rank."""
    return [
        f"{host}: {' '.join(str(rank) for rank, name in enumerate(hosts) if name == host)}"
        for host in dict.fromkeys(hosts)
    ]


def channel_size(channel: InputChannel) -> str:
    """Number and total size of a channel's files, in words."""
    if channel.mode == "Pipe":
        return f"a stream, {channel.record_wrapper}"
    if not channel.folder.is_dir():
        return "folder does not exist"
    files = list(islice((path for path in channel.folder.rglob("*") if path.is_file()), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        return f"more than {MAX_FILES} files"
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def _gpus() -> str:
    with management_library() as library:
        gpus = read_gpus(library)
    if not gpus:
        found = count_gpus()  # without NVIDIA's management library there are no details
        return f"{found}, of unknown type" if found else "none"
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
    """Version of the loaded MPI library, or of mpirun if this process has loaded none."""
    if loaded := sys.modules.get("mpi4py.MPI"):
        text = loaded.Get_library_version()
    elif program := shutil.which("mpirun"):
        text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    else:
        return None
    match = re.search(r"Open MPI\D*([\d.]+)", text)
    return match[1] if match else None


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
