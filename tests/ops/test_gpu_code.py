"""Compiling the GPU kernels with NVRTC and nvcc: needs no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import shim_runs

from frcnn.ops import gpu_code

WIDEST = {"float32": 4, "bfloat16": 8, "float16": 8}  # channels at once
# By hand, not from the sources: these names connect the launch functions with the machine code.
KERNELS = {
    *(
        f"frcnn_{kernel}_{dtype}_x{width}"
        for kernel in (
            *("roi_align", "gather", "bias_relu", "bias_relu_gradient"),
            *(f"norm_{step}" for step in ("moments", "apply", "gradient_sums", "gradient")),
        )
        for dtype, widest in WIDEST.items()
        for width in (1, widest)
    ),
    "frcnn_list_rois",
    *(f"frcnn_nms_{step}" for step in ("collect", "rank", "compare", "reduce")),
    *(f"frcnn_norm_statistics_{dtype}" for dtype in WIDEST),
    "frcnn_norm_totals",
    *(f"frcnn_update_{rule}" for rule in ("sgd", "momentum", "nesterov", "adamw", "average")),
    *("frcnn_sums_of_squares", "frcnn_root_of_sum"),
    *(f"frcnn_channel_scale_float32_to_{dtype}" for dtype in WIDEST),
    *(f"frcnn_channel_scale_{dtype}_to_float32" for dtype in ("bfloat16", "float16")),
}
needs_nvrtc = pytest.mark.skipif(
    gpu_code.nvrtc() is None, reason="nvidia-cuda-nvrtc-cu12 is not installed (Linux only)"
)
needs_nvcc = pytest.mark.skipif(gpu_code.nvcc() is None, reason="no nvcc")


def kernel_names(code: bytes) -> set[str]:
    """Functions in the machine code: an ELF file whose sections are named after them."""
    assert code.startswith(b"\x7fELF")
    return {name.decode() for name in re.findall(rb"\0\.text\.(\w+)(?=\0)", code)}


@needs_nvrtc
@pytest.mark.parametrize("capability", [70, 75, 80, 90])  # Volta, which nvcc 13 does not support, to Hopper
def test_nvrtc_compiles_every_kernel(capability):
    assert kernel_names(gpu_code.compile_with_nvrtc(gpu_code.nvrtc(), capability)) == KERNELS


@needs_nvcc
def test_nvcc_compiles_every_kernel_without_local_memory(tmp_path):
    assert kernel_names(gpu_code.compile_with_nvcc(gpu_code.nvcc(), 80)) == KERNELS
    command = [gpu_code.nvcc(), *gpu_code.FLAGS, "-O3", "-w", "-arch=sm_80", "-cubin", "-Xptxas", "-v"]
    command += ["-o", str(tmp_path / "kernels.cubin"), str(gpu_code.SOURCES / gpu_code.SOURCE)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert found == [("0", "0", "0")] * len(KERNELS)


@pytest.fixture
def broken_sources(tmp_path):
    shutil.copytree(shim_runs.KERNELS, tmp_path / "kernels")
    source = tmp_path / "kernels" / "nms.cu"
    source.write_text(source.read_text().replace("buffers.found + b, 1", "buffers.found + b, call"))
    return tmp_path / "kernels"


@needs_nvrtc
def test_nvrtc_error(broken_sources):
    with pytest.raises(gpu_code.BuildError, match=r"NVRTC failed for compute capability 8.0: .*nms.cu.*atomicAdd"):
        gpu_code.compile_with_nvrtc(gpu_code.nvrtc(), 80, broken_sources)


@needs_nvrtc
def test_unknown_architecture_is_an_error():
    with pytest.raises(gpu_code.BuildError, match=r"NVRTC failed for compute capability 3.0: .*gpu-architecture"):
        gpu_code.compile_with_nvrtc(gpu_code.nvrtc(), 30)


@needs_nvcc
def test_nvcc_error(broken_sources):
    with pytest.raises(gpu_code.BuildError, match=r"nvcc failed: .*nms.cu.*atomicAdd"):
        gpu_code.compile_with_nvcc(gpu_code.nvcc(), 80, broken_sources)


@pytest.mark.skipif(gpu_code.nvrtc() is None and gpu_code.nvcc() is None, reason="neither NVRTC nor nvcc")
def test_kernels_with_other_parameters_than_their_launch_do_not_compile(tmp_path):
    shutil.copytree(shim_runs.KERNELS, tmp_path / "kernels")
    header = tmp_path / "kernels" / "cuda_kernels.h"
    header.write_text(
        header.read_text().replace("(Pyramid, int bins, int64_t count,", "(Pyramid, int bins, int count,")
    )
    with pytest.raises(gpu_code.BuildError, match="signature"):
        gpu_code.compile_kernels(80, tmp_path / "kernels")


def test_without_a_compiler_the_error_names_the_packages(monkeypatch):
    monkeypatch.setattr(gpu_code, "nvrtc", lambda: None)
    monkeypatch.setattr(gpu_code, "nvcc", lambda: None)
    with pytest.raises(gpu_code.BuildError, match="pip install nvidia-cuda-nvrtc-cu12"):
        gpu_code.compile_kernels(80)


def test_nvrtc_is_preferred(monkeypatch):
    library = object()
    monkeypatch.setattr(gpu_code, "nvrtc", lambda: library)
    monkeypatch.setattr(gpu_code, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(gpu_code, "compile_with_nvrtc", lambda *call: call)
    assert gpu_code.compile_kernels(80) == (library, 80, gpu_code.SOURCES)
