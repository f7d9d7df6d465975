"""Compiles the kernels into a library and caches it.

TensorFlow's C++ ABI changes with every minor version, so a library is valid for one version only: its name contains a
key of TensorFlow's version, the machine's architecture, the sources and the flags, and libraries with another key are
ignored. The library is in the package if ``setup.py`` built it, else in the user's cache, where the first use builds it
under a file lock. Instruction sets are selected at run time, so one library serves all machines of an architecture.

``python -m frcnn.ops`` builds ahead of time, with CUDA kernels if nvcc is found, and prints the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from frcnn.errors import print_message

SOURCES = Path(__file__).parent / "kernels"
PREBUILT = Path(__file__).parent / "prebuilt"

COMMON = ("-std=c++17", "-O3", "-DNDEBUG", "-w", "-fPIC", "-fvisibility=hidden")
# No fused multiply-add where the last bit decides: samples on a border, an IoU at the threshold.
EXACT = "-ffp-contract=off"
TENSORFLOW_SOURCES = ("ops.cc", "gpu_ops.cc")  # the second one only with CUDA
CPU_SOURCES = {"roi_align_plan.cc": [EXACT], "roi_align_cpu.cc": ["-Wno-psabi"], "nms_cpu.cc": [EXACT, "-Wno-psabi"]}
CUDA_SOURCES = ("roi_align.cu", "nms.cu")
CUDA_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-w", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden")
# Compute capabilities times ten: from Volta, which nvcc 13 no longer supports, to Hopper, with PTX for later ones.
CUDA_TARGETS = (70, 75, 80, 86, 89, 90)


class BuildError(Exception):
    """The kernels cannot be built on this machine; the message contains the compiler's first error."""


class Library(NamedTuple):
    """A library on disk that is compatible with the running TensorFlow."""

    file: Path
    cuda: bool  # whether it contains GPU kernels


def default_cache() -> Path:
    """Folder of built libraries: the user's cache, or a private temporary folder if the home is not writable."""
    for folder in (Path.home() / ".cache" / "frcnn", Path(tempfile.gettempdir()) / f"frcnn-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # A library is code: never load one from a folder that another user owns.
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    raise BuildError("neither ~/.cache/frcnn nor the temporary directory is writable")


def cache_key(tensorflow_version: str = tf.version.VERSION) -> str:
    """Cache key: TensorFlow's version, the architecture, and a hash of sources and flags."""
    digest = hashlib.sha256()
    for part in (
        *_tensorflow_flags()[0],
        *COMMON,
        *CUDA_FLAGS,
        *map(str, CUDA_TARGETS),
        *map(str, CPU_SOURCES.items()),
    ):
        digest.update(part.replace(tf.sysconfig.get_include(), "").encode() + b"\0")
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return f"tf{tensorflow_version}-{platform.machine()}-{digest.hexdigest()[:16]}"


def find(*folders: Path) -> Library | None:
    """The library for this TensorFlow in the first folder that has one; libraries with CUDA kernels are preferred."""
    for cuda in (True, False):
        for folder in folders:
            file = folder / _file_name(cuda)
            if file.is_file():
                return Library(file, cuda)
    return None


def find_or_build(cache: Path | None = None) -> Library:
    """The library from the package or the cache; builds it into the cache if it does not exist.

    Raises:
        BuildError: there is no compiler, or compiling failed.
    """
    folder = cache or default_cache()
    cuda = bool(tf.config.list_physical_devices("GPU")) and nvcc() is not None
    found = find(PREBUILT, folder)
    if found and (found.cuda or not cuda):
        return found
    return build(folder, cuda=cuda)


def build(folder: Path, cuda: bool) -> Library:
    """Compile into ``folder``; concurrent processes wait for the first one. Raises BuildError."""
    folder.mkdir(parents=True, exist_ok=True)
    library = Library(folder / _file_name(cuda), cuda)
    with _locked(folder / f"{library.file.name}.lock"):
        if not library.file.is_file():
            _gcc()
            print_message(f"compiling the kernels for TensorFlow {tf.version.VERSION} (once, about half a minute)")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _link(_compile(Path(scratch), cuda), Path(scratch) / "library.so", cuda)
                os.replace(Path(scratch) / "library.so", library.file)
    return library


def _gcc() -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        raise BuildError("g++ not found; install it (Debian, Ubuntu: apt-get install g++)")
    return compiler


def nvcc() -> str | None:
    """Path of nvcc, or None."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@functools.cache
def cuda_targets(compiler: str) -> tuple[int, ...]:
    """The targets of ``CUDA_TARGETS`` that this nvcc supports."""
    known = {int(found) for found in re.findall(r"compute_(\d+)\b", _run([compiler, "--list-gpu-arch"]))}
    return tuple(target for target in CUDA_TARGETS if target in known)


def _file_name(cuda: bool) -> str:
    return f"frcnn_ops-{cache_key()}{'-cuda' if cuda else ''}.so"


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _tensorflow_flags() -> tuple[list[str], list[str]]:
    """Flags to compile and to link. TensorFlow's headers are system headers, to suppress their warnings."""
    compile_flags = [
        flag.replace("-I", "-isystem", 1) if flag.startswith("-I") else flag
        for flag in tf.sysconfig.get_compile_flags()
    ]
    return [flag for flag in compile_flags if "std=" not in flag], tf.sysconfig.get_link_flags()


def _compile(scratch: Path, cuda: bool) -> list[Path]:
    """Object files of all sources, compiled in parallel."""
    gcc = _gcc()
    sources = {name: _tensorflow_flags()[0] for name in (TENSORFLOW_SOURCES if cuda else TENSORFLOW_SOURCES[:1])}
    sources.update(CPU_SOURCES)
    jobs = [
        [gcc, *COMMON, *flags, "-c", str(SOURCES / name), "-o", str(scratch / f"{name}.o")]
        for name, flags in sources.items()
    ]
    if cuda:
        jobs += [cuda_command(SOURCES / name, scratch / f"{name}.o") for name in CUDA_SOURCES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, jobs))
    return [Path(job[-1]) for job in jobs]


def cuda_command(source: Path, target: Path, extra: tuple[str, ...] = ()) -> list[str]:
    """The nvcc call for one CUDA source: all targets that this nvcc supports, and PTX of the last."""
    compiler = nvcc()
    if compiler is None:
        raise BuildError("nvcc not found")
    targets = cuda_targets(compiler)
    codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    codes.append(f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}")
    return [compiler, *CUDA_FLAGS, *codes, *extra, "-c", str(source), "-o", str(target)]


def _link(objects: list[Path], target: Path, cuda: bool) -> None:
    libraries = _tensorflow_flags()[1]
    if cuda:
        # nvcc finds its own runtime; linked statically, so that only the driver is needed at run time
        linker = [str(nvcc()), "-shared", "-cudart", "static"]
        libraries = [f"-Xlinker={flag}" if flag.startswith("-l:") else flag for flag in libraries]
    else:
        linker = [_gcc(), "-shared"]
    _run([*linker, *map(str, objects), *libraries, "-o", str(target)])


def _run(command: list[str]) -> str:
    """Standard output of a compiler. Raises BuildError with its first error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]} ({error.strerror})") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        first = next((line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)), lines[0])
        raise BuildError(f"{Path(command[0]).name} failed: {first.strip()}")
    return done.stdout
