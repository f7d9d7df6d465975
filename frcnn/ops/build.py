"""Compiles the kernels into a library and caches it.

TensorFlow's C++ ABI changes with every minor version, so a library is valid for one version only: its name contains a
key of TensorFlow's version, the machine's architecture, the sources and the flags, and libraries with another key are
ignored. The library is in the package if ``setup.py`` built it, else in the user's cache, where the first use builds it
under a file lock. Instruction sets are selected at run time, so one library serves all machines of an architecture.
Machine code for GPUs is in separate files (``gpu_code.py``), which are added for the GPUs of the machine.

``python -m frcnn.ops`` builds ahead of time and prints the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from frcnn.atomic import write_atomically
from frcnn.errors import print_message
from frcnn.ops import gpu_code
from frcnn.ops.gpu_code import BuildError, run_compiler

SOURCES = gpu_code.SOURCES
PREBUILT = Path(__file__).parent / "prebuilt"

COMMON = ("-std=c++17", "-O3", "-DNDEBUG", "-w", "-fPIC", "-fvisibility=hidden")
# No fused multiply-add where the last bit decides: samples on a border, an IoU at the threshold, rounding to uint8.
EXACT = "-ffp-contract=off"
# A square root that may set errno is a call for negative numbers, and a loop with a call is not vectorized.
NO_ERRNO = "-fno-math-errno"
TENSORFLOW_SOURCES = (
    "ops.cc",
    "group_norm_ops.cc",
    "bias_relu_ops.cc",
    "update_ops.cc",
    "channel_scale_ops.cc",
    "resize_ops.cc",
    "gpu_ops.cc",
)
KERNEL_SOURCES = {
    "roi_align_plan.cc": [EXACT],
    "roi_align_cpu.cc": ["-Wno-psabi"],
    "nms_cpu.cc": [EXACT, "-Wno-psabi"],
    "group_norm_cpu.cc": ["-Wno-psabi"],
    "bias_relu_cpu.cc": [],
    "resize_cpu.cc": [EXACT, "-Wno-psabi"],
    "resize_antialiased_cpu.cc": [EXACT, "-Wno-psabi"],
    "update_cpu.cc": [NO_ERRNO, "-Wno-psabi"],
    "channel_scale_cpu.cc": [],
    "roi_align_cuda.cc": [],
    "nms_cuda.cc": [],
    "bias_relu_cuda.cc": [],
    "group_norm_cuda.cc": [],
    "update_cuda.cc": [],
    "channel_scale_cuda.cc": [],
    "cuda_driver.cc": [],
}


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
    for part in (*_tensorflow_flags()[0], *COMMON, *gpu_code.FLAGS, *map(str, KERNEL_SOURCES.items())):
        digest.update(part.replace(tf.sysconfig.get_include(), "").encode() + b"\0")
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return f"tf{tensorflow_version}-{platform.machine()}-{digest.hexdigest()[:16]}"


def find(*folders: Path) -> Path | None:
    """The library for this TensorFlow in the first folder that has one."""
    return next((file for file in (folder / file_name() for folder in folders) if file.is_file()), None)


def find_or_build(cache: Path | None = None) -> Path:
    """The library from the package or the cache; builds it into the cache if it does not exist.

    Raises:
        BuildError: there is no compiler, or compiling failed.
    """
    folder = cache or default_cache()
    return find(PREBUILT, folder) or build(folder)


def build(folder: Path) -> Path:
    """Compile into ``folder``; concurrent processes wait for the first one. Raises BuildError."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / file_name()
    with _locked(library):
        if not library.is_file():
            _gcc()
            print_message(f"compiling the kernels for TensorFlow {tf.version.VERSION} (once, about half a minute)")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _link(_compile(Path(scratch)), Path(scratch) / "library.so")
                os.replace(Path(scratch) / "library.so", library)
    return library


def add_gpu_code(
    library: Path, capabilities: Iterable[int], folder: Path, compile_kernels: Callable[[int], bytes] | None = None
) -> list[Path]:
    """Machine code of a library for these compute capabilities (90 for 9.0): beside it, else compiled into ``folder``.

    Raises:
        BuildError: there is no compiler, or compiling failed.
    """
    files = []
    for capability in sorted(set(capabilities)):
        file = gpu_code.file_of(library, capability)
        if not file.is_file():
            file = gpu_code.file_of(library, capability, folder)
            with _locked(file):
                if not file.is_file():
                    write_atomically(file, (compile_kernels or gpu_code.compile_kernels)(capability))
        files.append(file)
    return files


def build_ahead(folder: Path) -> Path:
    """The library and machine code for this machine's GPUs; without GPUs, for all that nvcc supports, if it is found.

    Raises:
        BuildError: there is no compiler, or compiling failed.
    """
    library, capabilities, nvcc = build(folder), visible_capabilities(), gpu_code.nvcc()
    if capabilities:
        add_gpu_code(library, capabilities, folder)
    elif nvcc:
        compile_kernels = functools.partial(gpu_code.compile_with_nvcc, nvcc)
        add_gpu_code(library, gpu_code.nvcc_capabilities(nvcc), folder, compile_kernels)
    return library


def visible_capabilities() -> set[int]:
    """Compute capabilities (90 for 9.0) of the GPUs that TensorFlow uses in this process."""
    details = list(map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU")))
    if not all("compute_capability" in detail for detail in details):
        raise BuildError("the GPU kernels are for NVIDIA GPUs only")
    return {10 * major + minor for major, minor in (detail["compute_capability"] for detail in details)}


def file_name() -> str:
    """Name of the library for this TensorFlow."""
    return f"frcnn_ops-{cache_key()}.so"


def _gcc() -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        raise BuildError("g++ not found; install it (Debian, Ubuntu: apt-get install g++)")
    return compiler


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_name(f"{file.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@functools.cache
def _tensorflow_flags() -> tuple[list[str], list[str]]:
    """Flags to compile and to link. TensorFlow's headers are system headers, to suppress their warnings."""
    compile_flags = [
        flag.replace("-I", "-isystem", 1) if flag.startswith("-I") else flag
        for flag in tf.sysconfig.get_compile_flags()
    ]
    return [flag for flag in compile_flags if "std=" not in flag], tf.sysconfig.get_link_flags()


def _compile(scratch: Path) -> list[Path]:
    """Object files of all sources, compiled in parallel."""
    gcc = _gcc()
    sources = {name: _tensorflow_flags()[0] for name in TENSORFLOW_SOURCES} | KERNEL_SOURCES
    jobs = [
        [gcc, *COMMON, *flags, "-c", str(SOURCES / name), "-o", str(scratch / f"{name}.o")]
        for name, flags in sources.items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run_compiler, jobs))
    return [Path(job[-1]) for job in jobs]


def _link(objects: list[Path], target: Path) -> None:
    run_compiler([_gcc(), "-shared", *map(str, objects), *_tensorflow_flags()[1], "-ldl", "-o", str(target)])
