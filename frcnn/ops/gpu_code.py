"""Compiles the GPU kernels to machine code, one file per compute capability, without TensorFlow.

The library of the kernels (``build.py``) launches them through CUDA's driver and finds the machine code beside itself
or in the cache: ``NAME.sm_90.cubin`` for ``NAME.so`` on a GPU of compute capability 9.0. Either of two compilers makes
it, without a GPU: NVRTC, a library that ``pip install tensorflow[and-cuda]`` installs, or nvcc of NVIDIA's toolkit.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"
SOURCE = "gpu_kernels.cu"
# No fused multiply-add where the last bit decides: samples on a border, an IoU at the threshold.
FLAGS = ("-std=c++17", "-fmad=false", "-DNDEBUG")
# Compute capabilities times ten that nvcc compiles ahead of time: Volta, which nvcc 13 no longer supports, to Hopper.
CAPABILITIES = (70, 75, 80, 86, 89, 90)
NVRTC_PATTERNS = ("cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13")
NVRTC_NAMES = ("libnvrtc.so.12", "libnvrtc.so.13")


class BuildError(Exception):
    """The kernels cannot be built on this machine; the message contains the compiler's first error."""


def file_of(library: Path, capability: int, folder: Path | None = None) -> Path:
    """Where a library looks for the machine code of a compute capability."""
    return (folder or library.parent) / f"{library.stem}.sm_{capability}.cubin"


def compile_kernels(capability: int, sources: Path = SOURCES) -> bytes:
    """Machine code of all kernels for one compute capability (90 for 9.0).

    Prefers NVRTC, which pip installs in the CUDA version that TensorFlow needs; an nvcc may be newer than the driver.

    Raises:
        BuildError: neither compiler is available, or compiling failed.
    """
    library, compiler = nvrtc(), nvcc()
    if library is not None:
        return compile_with_nvrtc(library, capability, sources)
    if compiler is not None:
        return compile_with_nvcc(compiler, capability, sources)
    raise BuildError(
        "neither NVRTC nor nvcc was found; install one of them: pip install nvidia-cuda-nvrtc-cu12, or the CUDA toolkit"
    )


def nvcc() -> str | None:
    """Path of nvcc, or None."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@functools.cache
def nvcc_capabilities(compiler: str) -> tuple[int, ...]:
    """Those of ``CAPABILITIES`` that this nvcc supports."""
    known = {int(found) for found in re.findall(r"compute_(\d+)\b", run_compiler([compiler, "--list-gpu-arch"]))}
    return tuple(capability for capability in CAPABILITIES if capability in known)


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's run-time compiler from its pip package or the system, or None."""
    for candidate in _nvrtc_candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None


def _nvrtc_candidates() -> Iterator[str]:
    package = importlib.util.find_spec("nvidia")  # a namespace package: find_spec imports nothing
    for folder in package.submodule_search_locations or [] if package else []:
        for pattern in NVRTC_PATTERNS:
            yield from map(str, Path(folder).glob(pattern))
    yield from NVRTC_NAMES


def compile_with_nvrtc(library: ctypes.CDLL, capability: int, sources: Path = SOURCES) -> bytes:
    """As :func:`compile_kernels`."""
    program = ctypes.c_void_p()
    source = (sources / SOURCE).read_bytes()
    options = [f"--gpu-architecture=sm_{capability}", *FLAGS, f"-I{sources}"]
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source, SOURCE.encode(), 0, None, None))
    try:
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), encoded):
            log = _read(library, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
            raise BuildError(f"NVRTC failed for compute capability {capability / 10}: {_first_error(log)}")
        return _read(library, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, size_function: str, function: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, size_function)(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, function)(program, buffer))
    return buffer.raw


def _check(library: ctypes.CDLL, result: int) -> None:
    if result:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise BuildError(f"NVRTC failed: {library.nvrtcGetErrorString(result).decode()}")


def compile_with_nvcc(compiler: str, capability: int, sources: Path = SOURCES) -> bytes:
    """As :func:`compile_kernels`."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.cubin"
        run_compiler(
            [
                compiler,
                *FLAGS,
                "-O3",
                "-w",
                f"-arch=sm_{capability}",
                "-cubin",
                "-o",
                str(target),
                str(sources / SOURCE),
            ]
        )
        return target.read_bytes()


def run_compiler(command: list[str]) -> str:
    """Standard output of a compiler. Raises BuildError with its first error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]} ({error.strerror})") from error
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed: {_first_error(done.stderr or str(done.returncode))}")
    return done.stdout


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)), lines[0])
