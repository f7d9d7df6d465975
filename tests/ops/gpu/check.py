"""Checks the GPU kernels without TensorFlow on a machine with an NVIDIA GPU, PyTorch, torchvision and g++.

    python tests/ops/gpu/check.py --json check.json             # all stages
    python tests/ops/gpu/check.py --stages oracle torchvision
    python tests/ops/gpu/check.py --shim                        # on any machine: small, the kernels run on the host

Stages:

* ``oracle``: values and gradients in all dtypes against NumPy in float64, with degenerate, NaN and far boxes; NMS with
  ties.
* ``torchvision``: at the size of training, against torchvision and PyTorch in float64 on the GPU, and NMS against
  torchvision's CPU kernel.
* ``sanitize``: memcheck, racecheck, initcheck and synccheck of compute-sanitizer on the calls of ``oracle``.
* ``speed``: time against torchvision on the GPU and against the time that the memory traffic takes at least.

The kernels are compiled with nvcc, or with NVRTC (``--compiler nvrtc``, as ``pip install`` uses it).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kernels as gpu_kernels
import shim_runs

STAGES = ("oracle", "torchvision", "sanitize", "speed")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def check_oracle(kernels: gpu_kernels.Kernels) -> list[str]:
    """The checks of the host shim, on this library; returns their names."""
    names = []
    for name, check in shim_runs.checks():
        check(kernels, "forward")
        print(f"  {name}: as NumPy")
        names.append(name)
    return names


def sanitize(program: Path) -> list[str]:
    """The same checks under the tools of compute-sanitizer; returns the tools' names."""
    if shutil.which("compute-sanitizer") is None:
        raise SystemExit("compute-sanitizer not found; install NVIDIA's CUDA toolkit, or leave the stage sanitize out")
    log = program.with_name("sanitizer.log")  # instead of the program's standard output, which is the result
    for tool in TOOLS:
        extra = ("--leak-check", "full") if tool == "memcheck" else ()
        options = ("--log-file", str(log), "--tool", tool, "--error-exitcode", "9", *extra)
        command = ("compute-sanitizer", *options, str(program))
        # Filling outputs before a call would hide from initcheck what no kernel has written.
        os.environ.pop("FRCNN_RAW", None)
        if tool == "initcheck":
            os.environ["FRCNN_RAW"] = "1"
        for name, check in shim_runs.checks():
            try:
                check(command, "forward")
            except shim_runs.Failure:
                print(f"  {tool}: {name}:\n{log.read_text() if log.is_file() else 'no log'}")
                raise
        print(f"  {tool}: no errors")
    return list(TOOLS)


def compile_for_this_gpu(folder: Path, compiler: str) -> Path:
    """The library with the machine code of the current GPU beside it."""
    import torch

    gpu_code = gpu_kernels.load_gpu_code()
    major, minor = torch.cuda.get_device_capability()
    tool = gpu_code.nvcc() if compiler == "nvcc" else gpu_code.nvrtc()
    if tool is None:
        raise SystemExit(f"{compiler} not found; use the other one with --compiler")
    compile_kernels = gpu_code.compile_with_nvcc if compiler == "nvcc" else gpu_code.compile_with_nvrtc
    library: Path = gpu_kernels.build_library(folder)
    gpu_code.file_of(library, 10 * major + minor).write_bytes(compile_kernels(tool, 10 * major + minor))
    print(f"{torch.cuda.get_device_name()}, sm_{major}{minor}, compiled with {compiler}")
    return library


def build_small_program(folder: Path) -> Path:
    """The program of the sanitizers, with small blocks and tiles; always by nvcc, which takes their sizes as flags."""
    import torch

    gpu_code = gpu_kernels.load_gpu_code()
    major, minor = torch.cuda.get_device_capability()
    program: Path = gpu_kernels.build_program(folder)
    gpu_code.FLAGS = (*gpu_code.FLAGS, *shim_runs.SMALL, "-lineinfo")
    code = gpu_code.compile_with_nvcc(gpu_code.nvcc(), 10 * major + minor)
    gpu_code.file_of(program, 10 * major + minor).write_bytes(code)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--compiler", choices=("nvcc", "nvrtc"), default="nvcc")
    parser.add_argument(
        "--shim", action="store_true", help="without a GPU, on the host: oracle, and torchvision if installed"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"shim": arguments.shim}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.shim:
            kernels = gpu_kernels.Kernels(gpu_kernels.build_shim(folder), gpu_kernels.HostMemory())
            stages = {"oracle": lambda: check_oracle(kernels)}
            if importlib.util.find_spec("torchvision"):
                import against_torchvision
                import norm_against_torch

                stages["torchvision"] = lambda: {
                    **against_torchvision.check(kernels, against_torchvision.SHIM),
                    **norm_against_torch.check(kernels, norm_against_torch.SHIM),
                }
        else:
            import against_torchvision
            import norm_against_torch

            kernels = gpu_kernels.Kernels(compile_for_this_gpu(folder, arguments.compiler), gpu_kernels.GpuMemory())
            results["versions"] = against_torchvision.versions()
            stages = {
                "oracle": lambda: check_oracle(kernels),
                "torchvision": lambda: {**against_torchvision.check(kernels), **norm_against_torch.check(kernels)},
                "sanitize": lambda: sanitize(build_small_program(folder)),
                "speed": lambda: against_torchvision.measure(kernels),
            }
        failed = []
        for stage in stages if arguments.shim else arguments.stages:
            print(f"{stage}:", flush=True)
            try:
                results[stage] = stages[stage]()
            except Exception:  # the other stages say more about the cause
                failed.append(stage)
                traceback.print_exc(file=sys.stdout)
            if arguments.json:
                arguments.json.write_text(json.dumps({**results, "failed": failed}, indent=2))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    print("all checks passed")


if __name__ == "__main__":
    main()
