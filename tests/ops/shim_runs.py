"""Builds the CUDA files for the host against the shim, and checks them against the NumPy oracle.

Needs no TensorFlow, so that ``tools/kernel_mutations.py`` can test a mutated kernel in about a second.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ops_oracle

SHIM = Path(__file__).parent / "shim"
KERNELS = Path(__file__).parents[2] / "frcnn" / "ops" / "kernels"

# Small blocks and tiles, so that small inputs take several of each.
SMALL = ("-DFRCNN_THREADS=32", "-DFRCNN_NMS_TILE=128", "-DFRCNN_MAX_BLOCKS=3")
MODES = {
    "fibers": ("-O1",),
    "address": ("-O1", "-g", "-DFRCNN_SHIM_THREADS", "-fsanitize=address", "-static-libasan"),
    "threads": ("-O1", "-g", "-DFRCNN_SHIM_THREADS", "-fsanitize=thread"),
}
ORDERS = ("forward", "reverse", "shuffled")
STRIDES = (8, 16)


def compile_objects(folder: Path, compiler: str, flags: tuple[str, ...], sources: list[Path]) -> list[Path]:
    """Object files of the sources, compiled in parallel."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = [folder / f"{source.name}.o" for source in sources]
    command = [compiler, "-std=c++17", "-w", "-ffp-contract=off", "-fPIC", *flags, f"-I{SHIM}"]

    def compile_one(source: Path, target: Path) -> None:
        subprocess.run(
            [*command, "-x", "c++", "-c", str(source), "-o", str(target)], check=True, capture_output=True, text=True
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    return objects


def launch_sources(kernels: Path = KERNELS) -> list[Path]:
    """The launch functions of the GPU kernels, which need no CUDA."""
    return [*sorted(kernels.glob("*_cuda.cc")), kernels / "cuda_driver.cc"]


def build_objects(mode: str, folder: Path, kernels: Path = KERNELS, extra: tuple[str, ...] = SMALL) -> list[Path]:
    """The GPU kernels compiled for the host, their launch functions, and the fake driver."""
    flags = (*MODES[mode], *extra, f"-I{kernels}")
    shimmed = [kernels / "gpu_kernels.cu", SHIM / "fake_driver.cc"]
    return [
        *compile_objects(folder, "g++", (*flags, "-include", str(SHIM / "cuda_shim.h")), shimmed),
        *compile_objects(folder, "g++", (*flags, "-DFRCNN_SHIM_DRIVER"), launch_sources(kernels)),
    ]


def build(mode: str, program: Path, kernels: Path = KERNELS, extra: tuple[str, ...] = SMALL) -> Path:
    folder = program.with_name(f"{program.name}.objects")
    objects = build_objects(mode, folder, kernels, extra)
    objects += compile_objects(folder, "g++", (*MODES[mode], *extra, f"-I{kernels}"), [SHIM / "main.cc"])
    link("g++", (*MODES[mode], "-rdynamic"), objects, program)
    write_code(program)
    return program


def write_code(library: Path, capability: int = 86) -> Path:
    """What the fake driver accepts as the machine code of a library or program."""
    file = library.with_name(f"{library.name.removesuffix('.so')}.sm_{capability}.cubin")
    file.write_bytes(b"shim")
    return file


def link(compiler: str, flags: tuple[str, ...], objects: list[Path], target: Path) -> None:
    command = [compiler, *flags, *map(str, objects), "-lpthread", "-ldl", "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def build_cpu(program: Path, compiler: str = "g++", flags: tuple[str, ...] = ()) -> Path:
    """The CPU kernels behind the same interface; ``order`` is the order of the chunks of parallel work."""
    folder = program.with_name(f"{program.name}.objects")
    sources = [*sorted(KERNELS.glob("*_cpu.cc")), KERNELS / "roi_align_plan.cc"]
    sources += [SHIM / name for name in ("cpu.cc", "fake_driver.cc", "main.cc")]
    link(compiler, flags, compile_objects(folder, compiler, (*flags, f"-I{KERNELS}"), sources), program)
    return program


class Failure(AssertionError):
    """The program failed: a sanitizer report, a divergent barrier, a signal."""


# A program, a command that runs one, or a function that makes the call itself.
Program = Path | tuple[str, ...] | Callable[..., tuple[bytes, int]]


def run(program: Program, operation: str, order: str, *arrays: np.ndarray, timeout: float = 60) -> tuple[bytes, int]:
    """Result as bytes, and the bytes of device memory that the kernels read and wrote."""
    if callable(program):
        return program(operation, order, *arrays)
    call = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    command = program if isinstance(program, tuple) else (str(program),)
    done = subprocess.run([*command, operation, order], input=call, capture_output=True, check=False, timeout=timeout)
    if done.returncode:
        raise Failure(f"{operation}, {order}: status {done.returncode}: {done.stderr.decode(errors='replace')[-1500:]}")
    return done.stdout, int(done.stderr.split()[0])


class Format(NamedTuple):
    """A dtype of the kernels as raw values, and the tolerance of results."""

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]  # to float32
    raw: type
    tolerance: dict[str, float]


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to nearest, ties to even


FORMATS = (
    Format(lambda values: values.astype(np.float32), lambda raw: raw, np.float32, {"atol": 2e-5}),
    Format(
        _to_bfloat16,
        lambda raw: (raw.astype(np.uint32) << 16).view(np.float32),
        np.uint16,
        {"atol": 1e-4, "rtol": 2**-8},
    ),
    Format(
        lambda values: values.astype(np.float16),
        lambda raw: raw.astype(np.float32),
        np.float16,
        {"atol": 1e-4, "rtol": 2**-10},
    ),
)


class Call(NamedTuple):
    """Inputs and expected outputs of RoIAlign; values are encoded in the format."""

    head: tuple[np.ndarray, ...]
    format: Format
    pyramid: list[np.ndarray]
    upstream: np.ndarray
    pooled: np.ndarray
    gradients: list[np.ndarray]


def pooling_call(channels: int, sampling_ratio: int, aligned: bool, dtype: int = 0, count: int = 40) -> Call:
    rng = np.random.default_rng(channels + sampling_ratio)
    encode, decode, *_ = number_format = FORMATS[dtype]
    pyramid = [encode(rng.normal(size=(2, 56 // stride, 48 // stride, channels))) for stride in STRIDES]
    corners = np.sort(rng.uniform(-8, 70, size=(count, 2, 2)), axis=1)
    boxes = corners.reshape(count, 4).astype(np.float32)
    boxes[::7, 2:] = boxes[::7, :2] + 300  # the second level
    boxes[:4] = [[np.nan, 0, 9, 9], [40, 9, 4, 30], [8, 8, 8, 8], [-300, -300, 400, 400]]
    images = rng.integers(0, 2, count).astype(np.int32)
    images[5:7] = [-1, 2]
    bins = 3
    rule = {
        "strides": STRIDES,
        "output_size": bins,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "level_rule": "detectron2",
    }
    pooled, gradient = ops_oracle.roi_align([decode(level) for level in pyramid], boxes, images, **rule)
    upstream = encode(rng.normal(size=pooled.shape))
    sizes = np.int32([level.shape[1] for level in pyramid]), np.int32([level.shape[2] for level in pyramid])
    numbers = np.int32([len(STRIDES), 2, channels, bins, sampling_ratio, aligned, dtype, count])
    # starts: the first is unused; 224 pixels belong to P4
    return Call(
        (numbers, *sizes, 1 / np.float32(STRIDES), np.float32([0, 224]), boxes, images),
        number_format,
        pyramid,
        upstream,
        pooled,
        gradient(decode(upstream)),
    )


def check_pooling(program: Program, order: str, call: Call) -> None:
    _, decode, raw, tolerance = call.format
    pooled, _ = run(program, "roi_align", order, *call.head, *call.pyramid)
    values = decode(np.frombuffer(pooled, raw)).reshape(call.pooled.shape)
    np.testing.assert_allclose(values, call.pooled, **tolerance)
    exact = np.concatenate([gradient.ravel() for gradient in call.gradients])
    gradient, _ = run(program, "roi_align_gradient", order, *call.head, call.upstream)
    np.testing.assert_allclose(decode(np.frombuffer(gradient, raw)), exact, **tolerance)


def nms_call(count: int, max_outputs: int, threshold: float) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Inputs and the kept indices [B, max_outputs]."""
    rng = np.random.default_rng(count)
    boxes = rng.integers(0, 90, size=(2, count, 4)).astype(np.float32)
    boxes[..., 2:] = boxes[..., :2] + rng.integers(5, 30, size=(2, count, 2))
    scores = rng.integers(0, 150, size=(2, count)).astype(np.float32)
    scores[1, ::2] = rng.choice([-np.inf, np.nan, 500], size=scores[1, ::2].shape)
    groups = rng.integers(0, 2, size=(2, count)).astype(np.int32)
    for b in range(2):  # the best box suppresses the last one
        best, last = np.nanargmax(scores[b]), np.nanargmin(np.where(scores[b] == -np.inf, np.inf, scores[b]))
        boxes[b, last], groups[b, last] = boxes[b, best], groups[b, best]
    kept = np.full((2, max_outputs), -1, np.int32)
    for b in range(2):
        found = ops_oracle.nms(boxes[b], scores[b], groups[b], iou_threshold=threshold, max_outputs=max_outputs)
        kept[b, : len(found)] = found
    return (np.int32([2, count, max_outputs]), np.float32([threshold]), boxes, scores, groups), kept


def check_nms(program: Program, order: str, call: tuple[tuple[np.ndarray, ...], np.ndarray]) -> None:
    arrays, kept = call
    result, _ = run(program, "nms", order, *arrays)
    values = np.frombuffer(result, np.int32)
    np.testing.assert_array_equal(values[:-2].reshape(kept.shape), kept)
    np.testing.assert_array_equal(values[-2:], (kept >= 0).sum(axis=1))


class BiasReluCase(NamedTuple):
    """Shape and options of a call; all sums are exact in float32, so that results have one correct rounding."""

    dtype: int
    shape: tuple[int, int]
    relu: bool
    residual: bool
    offset: int = 0  # of the inputs from an aligned address, elements


def check_bias_relu(program: Program, order: str, case: BiasReluCase) -> None:
    rng = np.random.default_rng(case.shape[1])
    encode, decode, raw, _ = FORMATS[case.dtype]
    inputs, residual, upstream = (decode(encode(rng.integers(-1280, 1280, case.shape) / 64)) for _ in range(3))
    bias = rng.integers(-1280, 1280, case.shape[1]) / 64
    inputs[0, :2], residual[-1, -1] = (np.nan, np.inf), np.nan
    sums = inputs + bias + (residual if case.residual else 0)
    outputs = decode(encode(np.where(sums <= 0, 0, sums) if case.relu else sums))
    head = np.int32([case.dtype, *case.shape, case.relu, case.residual, case.offset])
    padding = np.zeros(case.offset, raw)

    def compare(found: bytes, expected: np.ndarray) -> None:
        values = decode(np.frombuffer(found, raw)[case.offset :]).reshape(case.shape)
        np.testing.assert_array_equal(values, expected)

    arrays = [encode(inputs), bias.astype(np.float32), *([encode(residual)] if case.residual else [])]
    compare(run(program, "bias_relu", order, head, padding, *arrays)[0], outputs)
    passed = np.where(outputs > 0, upstream, 0)
    compare(run(program, "bias_relu_gradient", order, head, padding, encode(upstream), encode(outputs))[0], passed)


BIAS_RELU_CASES = {
    "16 bytes at once, threads without a row": BiasReluCase(1, (61, 40), relu=True, residual=True),
    "float16, rows of several blocks": BiasReluCase(2, (3, 808), relu=True, residual=False),
    "float32, no ReLU": BiasReluCase(0, (90, 12), relu=False, residual=True),
    "float32, single channels": BiasReluCase(0, (50, 3), relu=True, residual=True),
    "not aligned": BiasReluCase(1, (40, 16), relu=True, residual=False, offset=1),
}


@functools.cache
def checks() -> list[tuple[str, Callable[[Program, str], None]]]:
    """Name and function of each check; the inputs are created once."""
    roi_aligns = {
        "four channels at once, many RoIs": pooling_call(8, 2, True, count=120),
        "single channels, adaptive": pooling_call(5, 0, False),
        "float16, eight channels at once": pooling_call(8, 2, False, dtype=2),
        "several blocks per RoI": pooling_call(64, 2, True, count=14),
        "bfloat16, single channels": pooling_call(3, 2, True, dtype=1),
    }
    import group_norm_checks  # which needs this module
    import many_tensor_checks

    nms_calls = {"four tiles": nms_call(450, 450, 0.375), "stopped early": nms_call(150, 70, 0.5)}
    return [
        *(
            (name, lambda program, order, call=call: check_pooling(program, order, call))
            for name, call in roi_aligns.items()
        ),
        *(
            (name, lambda program, order, call=call: check_nms(program, order, call))
            for name, call in nms_calls.items()
        ),
        *(
            (f"bias and ReLU, {name}", lambda program, order, case=case: check_bias_relu(program, order, case))
            for name, case in BIAS_RELU_CASES.items()
        ),
        *group_norm_checks.checks(),
        *many_tensor_checks.checks(),
    ]
