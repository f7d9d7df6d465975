"""The .cu files with NVRTC 12 for Volta, which nvcc 13 no longer supports. Needs neither a GPU nor nvcc."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from frcnn.ops import build

DTYPES = ("float", "frcnn::BFloat16", "frcnn::Float16")
KERNELS = {
    "roi_align.cu": [
        *(
            f"frcnn::{kernel}_kernel<{dtype}, {width}>"
            for kernel in ("pool", "scatter", "gather")
            for dtype in DTYPES
            for width in (1, 4)
        ),
        *(f"frcnn::round_kernel<{dtype}>" for dtype in DTYPES[1:]),
    ],
    "nms.cu": [f"frcnn::{kernel}_kernel" for kernel in ("collect", "rank", "compare_with_kept", "mask", "reduce_tile")],
}


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    # A namespace package: find_spec imports nothing.
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or [] if package else []:
        for library in Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.12"):
            return ctypes.CDLL(str(library))
    pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed (Linux only)")


def compile_kernels(nvrtc: ctypes.CDLL, source: Path, kernels: list[str], architecture: int) -> tuple[str, bytes]:
    """The compiler's log, and the machine code (empty on errors)."""
    program = ctypes.c_void_p()
    assert (
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None) == 0
    )
    for kernel in kernels:
        assert nvrtc.nvrtcAddNameExpression(program, kernel.encode()) == 0
    # cuda_launch.h declares host functions, which a device-only compiler treats as device functions.
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
def test_every_kernel_compiles_for_volta(nvrtc, source):
    log, code = compile_kernels(nvrtc, build.SOURCES / source, KERNELS[source], architecture=70)
    assert code.startswith(b"\x7fELF"), log
    for kernel in KERNELS[source]:
        name = kernel.removeprefix("frcnn::").partition("<")[0]
        assert name.encode() in code


def test_compile_errors_are_detected(nvrtc, tmp_path):
    for file in build.SOURCES.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("buffers.found + b, 1", "buffers.found + b, call"))
    log, code = compile_kernels(nvrtc, tmp_path / "nms.cu", KERNELS["nms.cu"], architecture=70)
    assert 'no instance of overloaded function "atomicAdd"' in log
    assert not code
