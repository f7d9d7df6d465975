"""Static analysis of the GPU kernels, without a GPU: registers, memory instructions, occupancy and memory traffic.

    python tools/gpu_on_paper.py --json gpu.json        # needs nvcc and g++, no GPU; two minutes
    pip download --no-deps nvidia-cuda-nvdisasm         # a wheel with bin/nvdisasm, for the memory instructions
    python tools/gpu_on_paper.py --nvdisasm bin/nvdisasm

Registers, stack frame and spills are reported by ptxas. Instructions that access memory are counted in the machine
code. Occupancy is theoretical: resident threads as limited by registers, shared memory and blocks, divided by the
maximum of a multiprocessor. Memory traffic is counted by the host shim of the tests, for the RoIs of benchmarks/ops.py:
loads and stores of the kernels, most of which hit a GPU's L2 cache. The lower bound reads each feature pixel under a
box once and writes the result once.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "ops"), str(REPOSITORY / "benchmarks")]
import ops_case  # noqa: E402
import shim_runs  # noqa: E402

from frcnn.ops import gpu_code  # noqa: E402


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
    **{
        f"norm_{kernel}_{dtype}_x{width}": (256, 4 * 2 * width * 256)
        for kernel in ("moments", "gradient_sums")
        for dtype, widest in (("float32", 4), ("bfloat16", 8), ("float16", 8))
        for width in (1, widest)
    },
    "norm_statistics": (256, 8 * 2 * 256),
    "norm_totals": (256, 8 * 2 * 256),
    "norm_apply": (256, 0),
    "norm_gradient": (256, 0),
    "roi_align": (256, _TAPS),
    "list_rois": (256, 256 // 8),
    "gather": (256, 16 * (4 * ops_case.POOLED * (4 + 8) + 4 * 9) + 4 * 256 + 256 // 8),
    "bias_relu": (256, 0),
    "update": (256, 0),
    "channel_scale": (256, 0),
    "sums_of_squares": (256, 8 * 256),
    "root_of_sum": (256, 8 * 256),
    "nms_collect": (256, 0),
    "nms_rank": (256, 8 * 256),
    "nms_compare": (64, (24 + 4) * 64),
    "nms_reduce": (64, 8 * (4096 // 64) + 8 * 64 + 8),
}
# Names of instructions in the machine code, by what they access.
INSTRUCTIONS = {
    "local": ("LDL", "STL"),  # stack frame
    "generic": ("LD", "ST", "ATOM"),  # address space unknown: shared, local or global
    "load": ("LDG",),
    "store": ("STG",),
    "reduction": ("RED", "REDG"),  # atomic addition without result
    "atomic": ("ATOMG", "ATOMS"),
}

# Memory bandwidth in bytes per second, from NVIDIA's data sheets.
MEMORY = {"A100 (sm_80, 40 GB)": 1.555e12, "H100 (sm_90, SXM)": 3.35e12}

COUNTED_CHANNELS = 32  # the shim is slow; traffic is proportional to the channels


class Kernel(NamedTuple):
    name: str  # without the prefix frcnn_
    architecture: int
    registers: int
    stack: int  # bytes of the stack frame
    spilled: int  # bytes stored and loaded
    shared: int  # bytes, including dynamic shared memory
    instructions: dict[str, int]  # by INSTRUCTIONS, and all; empty without nvdisasm

    @property
    def resident(self) -> int:
        """Resident threads of a multiprocessor."""
        threads, _ = launch_of(self.name)
        limits = MULTIPROCESSORS[self.architecture]
        warp_registers = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        by_registers = REGISTERS // warp_registers // (threads // WARP)
        by_shared = limits.shared // (self.shared + limits.reserved) if self.shared + limits.reserved else limits.blocks
        return threads * min(by_registers, by_shared, limits.blocks, limits.threads // threads)


def launch_of(name: str) -> tuple[int, int]:
    return next(launch for prefix, launch in LAUNCHES.items() if name.startswith(prefix))


def compiled_kernels(architecture: int, folder: Path, nvdisasm: str | None) -> list[Kernel]:
    """ptxas's report of each kernel, and its memory instructions."""
    target = folder / f"kernels.{architecture}.cubin"
    command = [
        str(gpu_code.nvcc()),
        *gpu_code.FLAGS,
        "-O3",
        "-w",
        f"-arch=sm_{architecture}",
        "-cubin",
        "-Xptxas",
        "-v",
    ]
    command += [str(gpu_code.SOURCES / gpu_code.SOURCE), "-o", str(target)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    pattern = (
        r"Compiling entry function 'frcnn_(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)"
    )
    counts = count_instructions(target, nvdisasm) if nvdisasm else {}
    kernels = []
    for name, stack, stores, loads, registers, rest in re.findall(pattern, report, re.DOTALL):
        static = re.search(r"(\d+) bytes smem", rest)
        shared = launch_of(name)[1] + (int(static[1]) if static else 0)
        spilled = int(stores) + int(loads)
        counted = counts.get(name, {})
        kernels.append(Kernel(name, architecture, int(registers), int(stack), spilled, shared, counted))
    return kernels


def count_instructions(code: Path, nvdisasm: str) -> dict[str, dict[str, int]]:
    """Instructions of each kernel, by INSTRUCTIONS."""
    text = subprocess.run([nvdisasm, "-c", str(code)], capture_output=True, text=True, check=True).stdout
    found = {}
    for name, body in re.findall(r"\.section\s+\.text\.frcnn_(\w+),.*?\n(.*?)(?=\.section|\Z)", text, re.DOTALL):
        names = Counter(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", body, re.MULTILINE))
        found[name] = {
            "all": names.total(),
            **{kind: sum(names[name] for name in members) for kind, members in INSTRUCTIONS.items()},
        }
    return found


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
    return shim_runs.run(program, operation, "forward", *call, timeout=600)[1] * ops_case.CHANNELS // channels


def traffic(count: int, program: Path) -> Iterator[tuple[str, int, int]]:
    """Name, bytes moved and lower bound of each operation."""
    boxes = ops_case.random_boxes(np.random.default_rng(count), count)
    forward = ops_case.touched_bytes(boxes, ops_case.levels_of(boxes)) + ops_case.pooled_bytes(count)
    backward = ops_case.pooled_bytes(count) + ops_case.pyramid_bytes()
    for name, operation, floor in (
        ("forward", "roi_align", forward),
        ("gradient", "roi_align_gradient", backward),
    ):
        yield f"{name}, {count} RoIs", moved_bytes(program, operation, count), floor


def print_kernels(kernels: list[Kernel], architectures: tuple[int, ...]) -> None:
    """Registers, stack frame, bytes spilled, KiB of shared memory, occupancy."""
    print("| kernel | " + " | ".join(f"sm_{architecture}" for architecture in architectures) + " |")
    print("|---|" + "---|" * len(architectures))
    for name in dict.fromkeys(kernel.name for kernel in kernels):
        cells = {
            k.architecture: f"{k.registers}, {k.stack}, {k.spilled}, {k.shared / 1024:.1f}, "
            f"{k.resident / MULTIPROCESSORS[k.architecture].threads:.0%}"
            for k in kernels
            if k.name == name
        }
        print(f"| `{name}` | " + " | ".join(cells[architecture] for architecture in architectures) + " |")


def print_instructions(kernels: list[Kernel]) -> None:
    """Instructions of one architecture."""
    columns = ("all", *INSTRUCTIONS)
    print(f"\n| kernel, sm_{kernels[0].architecture} | stack frame | {' | '.join(columns)} |")
    print("|---|---|" + "---|" * len(columns))
    for kernel in kernels:
        counts = " | ".join(str(kernel.instructions[column]) for column in columns)
        print(f"| `{kernel.name}` | {kernel.stack} | {counts} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"), help="NVIDIA's disassembler")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compiler = gpu_code.nvcc()
    if compiler is None:
        raise SystemExit("nvcc not found")
    architectures = gpu_code.nvcc_capabilities(compiler)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda found: compiled_kernels(found, Path(name), arguments.nvdisasm), architectures)
        kernels = [kernel for found in compiled for kernel in found]
        program = shim_runs.build("fibers", Path(name) / "shim", extra=("-O2", "-DFRCNN_THREADS=256"))
        rows = [row for count in (512, 1000) for row in traffic(count, program)]
    print_kernels(kernels, architectures)
    if arguments.nvdisasm:
        print_instructions([kernel for kernel in kernels if kernel.architecture == architectures[-1]])
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
