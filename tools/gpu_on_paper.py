"""Static analysis of the GPU kernels, without a GPU: registers, spills, occupancy and memory traffic.

    python tools/gpu_on_paper.py --json gpu.json        # needs nvcc and g++, no GPU; two minutes

Registers and spills are reported by ptxas. Occupancy is theoretical: resident threads as limited by registers, shared
memory and blocks, divided by the maximum of a multiprocessor. Memory traffic is counted by the host shim of the tests,
for the RoIs of benchmarks/ops.py: loads and stores of the kernels, most of which hit a GPU's L2 cache. The lower bound
reads each feature pixel under a box once and writes the result once.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "ops"), str(REPOSITORY / "benchmarks")]
import ops_case  # noqa: E402
import shim_runs  # noqa: E402

from frcnn.ops import build  # noqa: E402


class Multiprocessor(NamedTuple):
    """Limits of one architecture (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    threads: int
    blocks: int
    shared: int  # bytes
    reserved: int  # bytes of shared memory that CUDA reserves per block


MULTIPROCESSORS = {
    70: Multiprocessor(2048, 32, 96 << 10, 0),
    75: Multiprocessor(1024, 16, 64 << 10, 0),
    80: Multiprocessor(2048, 32, 164 << 10, 1 << 10),
    86: Multiprocessor(1536, 16, 100 << 10, 1 << 10),
    89: Multiprocessor(1536, 24, 100 << 10, 1 << 10),
    90: Multiprocessor(2048, 32, 228 << 10, 1 << 10),
}
REGISTERS = 65536  # of a multiprocessor
WARP = 32  # threads
REGISTER_UNIT = 256  # registers are allocated to warps in multiples of this

# Threads per block, and bytes of dynamic shared memory for the inputs of benchmarks/ops.py, as in the launch functions.
_TALLEST, _WIDEST = ops_case.MAP_SIZES[0]
_TAPS = 8 * (2 * ops_case.POOLED + _TALLEST + _WIDEST + 2 * 4 * ops_case.POOLED)
LAUNCHES = {
    "pool": (256, _TAPS),
    "scatter": (256, _TAPS),
    "gather": (256, 4 * ops_case.POOLED * (1 + 8) + 4 * 256),
    "round": (256, 0),
    "collect": (256, 0),
    "rank": (256, 8 * 256),
    "compare_with_kept": (64, (24 + 4) * 64),
    "mask": (64, 24 * 64),
    "reduce_tile": (64, 8 * (2048 // 64) + 8 * 64 + 8),
}

# Memory bandwidth in bytes per second, from NVIDIA's data sheets.
MEMORY = {"A100 (sm_80, 40 GB)": 1.555e12, "H100 (sm_90, SXM)": 3.35e12}

COUNTED_CHANNELS = 32  # the shim is slow; traffic is proportional to the channels


class Kernel(NamedTuple):
    name: str  # with template arguments
    architecture: int
    registers: int
    spilled: int  # bytes stored and loaded
    shared: int  # bytes, including dynamic shared memory

    @property
    def resident(self) -> int:
        """Resident threads of a multiprocessor."""
        threads, _ = LAUNCHES[self.name.partition("<")[0]]
        limits = MULTIPROCESSORS[self.architecture]
        warp_registers = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        by_registers = REGISTERS // warp_registers // (threads // WARP)
        by_shared = limits.shared // (self.shared + limits.reserved) if self.shared + limits.reserved else limits.blocks
        return threads * min(by_registers, by_shared, limits.blocks, limits.threads // threads)


def compiled_kernels(source: str, architecture: int, folder: Path) -> Iterator[Kernel]:
    """ptxas's report of each kernel of a file."""
    target = folder / f"{source}.{architecture}.cubin"
    command = [
        str(build.nvcc()),
        *build.CUDA_FLAGS,
        f"-arch=sm_{architecture}",
        "-cubin",
        "-Xptxas",
        "-v",
        str(build.SOURCES / source),
        "-o",
        str(target),
    ]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)"
    )
    for mangled, stores, loads, registers, rest in re.findall(pattern, report, re.DOTALL):
        name = readable(mangled)
        static = re.search(r"(\d+) bytes smem", rest)
        shared = LAUNCHES[name.partition("<")[0]][1] + (int(static[1]) if static else 0)
        yield Kernel(name, architecture, int(registers), int(stores) + int(loads), shared)


def readable(mangled: str) -> str:
    """``pool<float, 4>`` for the symbol of ``frcnn::pool_kernel<float, 4>``."""
    symbol = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    name, arguments = re.search(
        r"(\w+)_kernel(<[^()]*>)?\(", symbol.replace("frcnn::", "").replace("(int)", "")
    ).groups()
    return name + (arguments or "")


def moved_bytes(program: Path, operation: str, count: int) -> int:
    """Bytes that the kernels read and write for ``count`` RoIs on one image, counted by the shim."""
    rng = np.random.default_rng(count)
    channels, strides = COUNTED_CHANNELS, np.float32(ops_case.STRIDES)
    maps = [rng.normal(size=(1, height, width, channels)).astype(np.float32) for height, width in ops_case.MAP_SIZES]
    boxes = ops_case.random_boxes(rng, count)
    head = np.int32([len(strides), 1, channels, ops_case.POOLED, 2, 1, 0, count])
    sizes = np.int32(ops_case.MAP_SIZES)
    starts = np.float32([0, *ops_case.level_starts(ops_case.STRIDES, "torchvision")])
    values = (
        maps
        if operation == "roi_align"
        else [np.zeros([count, ops_case.POOLED, ops_case.POOLED, channels], np.float32)]
    )
    call = (head, sizes[:, 0], sizes[:, 1], 1 / strides, starts, boxes, np.zeros(count, np.int32), *values)
    moved = shim_runs.run(program, operation, "forward", *call, timeout=600)[1]
    if operation == "roi_align_gradient":  # and the memset before it
        moved += sum(level.nbytes for level in maps)
    return moved * ops_case.CHANNELS // channels


def traffic(count: int, program: Path) -> Iterator[tuple[str, int, int]]:
    """Name, bytes moved and lower bound of each operation."""
    boxes = ops_case.random_boxes(np.random.default_rng(count), count)
    forward = ops_case.touched_bytes(boxes, ops_case.levels_of(boxes)) + ops_case.pooled_bytes(count)
    backward = ops_case.pooled_bytes(count) + ops_case.pyramid_bytes()
    for name, operation, floor in (
        ("forward", "roi_align", forward),
        ("gradient, atomic", "roi_align_gradient", backward),
        ("gradient, deterministic", "roi_align_gradient_deterministic", backward),
    ):
        yield f"{name}, {count} RoIs", moved_bytes(program, operation, count), floor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compiler = build.nvcc()
    if compiler is None:
        raise SystemExit("nvcc not found")
    architectures = build.cuda_targets(compiler)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        jobs = [(source, architecture, Path(name)) for source in build.CUDA_SOURCES for architecture in architectures]
        kernels = [kernel for found in pool.map(lambda job: list(compiled_kernels(*job)), jobs) for kernel in found]
        program = shim_runs.build("fibers", Path(name) / "shim", extra=("-O2", "-DFRCNN_THREADS=256"))
        rows = [row for count in (512, 1000) for row in traffic(count, program)]
    print("| kernel | " + " | ".join(f"sm_{architecture}" for architecture in architectures) + " |")
    print("|---|" + "---|" * len(architectures))
    for kernel in dict.fromkeys(kernel.name for kernel in kernels):
        cells = {
            k.architecture: f"{k.registers}, {k.spilled}, {k.shared / 1024:.1f}, "
            f"{k.resident / MULTIPROCESSORS[k.architecture].threads:.0%}"
            for k in kernels
            if k.name == kernel
        }
        print(f"| `{kernel}` | " + " | ".join(cells[architecture] for architecture in architectures) + " |")
    print(
        "\n| operation | moved, MB | floor, MB | moved / floor | "
        + " | ".join(f"floor on {gpu}, µs" for gpu in MEMORY)
        + " |"
    )
    print("|---|---|---|---|" + "---|" * len(MEMORY))
    for name, moved, floor in rows:
        times = " | ".join(f"{floor / rate * 1e6:.0f}" for rate in MEMORY.values())
        print(f"| {name} | {moved / 1e6:.0f} | {floor / 1e6:.0f} | {moved / floor:.1f} | {times} |")
    if arguments.json:
        traffic_rows = [{"operation": name, "moved": moved, "floor": floor} for name, moved, floor in rows]
        arguments.json.write_text(
            json.dumps(
                {"kernels": [k._asdict() | {"resident": k.resident} for k in kernels], "traffic": traffic_rows},
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
