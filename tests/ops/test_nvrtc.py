"""The .cu files under CUDA 12 for Volta, which nvcc 13 has dropped: NVIDIA's run-time compiler, from PyPI, needs no GPU and no nvcc."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from frcnn.ops import build

NUMBERS = ("float", "frcnn::BFloat16", "frcnn::Float16")
KERNELS = {
    "roi_align.cu": [
        *(
            f"frcnn::{kernel}_kernel<{number}, {width}>"
            for kernel in ("pool", "spread", "gather")
            for number in NUMBERS
            for width in (1, 4)
        ),
        *(f"frcnn::round_kernel<{number}>" for number in NUMBERS[1:]),
    ],
    "nms.cu": [f"frcnn::{kernel}_kernel" for kernel in ("collect", "rank", "against_kept", "mask", "settle")],
}


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    # A namespace package: looking for it imports nothing.
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or [] if package else []:
        for library in Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.12"):
            return ctypes.CDLL(str(library))
    pytest.skip("no NVRTC 12: its package is for Linux")


def compile_kernels(nvrtc: ctypes.CDLL, source: Path, kernels: list[str], architecture: int) -> tuple[str, bytes]:
    """The compiler's log, and the machine code: empty where it failed."""
    program = ctypes.c_void_p()
    assert (
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None) == 0
    )
    for kernel in kernels:
        assert nvrtc.nvrtcAddNameExpression(program, kernel.encode()) == 0
    # launch.h declares host functions, which a compiler for the device alone may take for its own.
    options = [
        f"--gpu-architecture=sm_{architecture}",
        "--std=c++17",
        "--fmad=false",
        "--device-as-default-execution-space",
        f"-I{source.parent}",
    ]
    nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    return log.value.decode(), code.raw[: size.value]


@pytest.mark.parametrize("source", build.CUDA_SOURCES)
def test_cuda_12_compiles_every_kernel_for_volta(nvrtc, source):
    log, code = compile_kernels(nvrtc, build.SOURCES / source, KERNELS[source], architecture=70)
    assert code.startswith(b"\x7fELF"), log
    for kernel in KERNELS[source]:
        name = kernel.removeprefix("frcnn::").partition("<")[0]
        assert name.encode() in code


def test_a_mistake_is_noticed(nvrtc, tmp_path):
    for file in build.SOURCES.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("buffers.found + b, 1", "buffers.found + b, call"))
    log, code = compile_kernels(nvrtc, tmp_path / "nms.cu", KERNELS["nms.cu"], architecture=70)
    assert 'no instance of overloaded function "atomicAdd"' in log
    assert not code
