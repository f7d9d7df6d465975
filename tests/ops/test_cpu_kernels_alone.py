"""The CPU kernels without TensorFlow: under sanitizers, in any order of their chunks, and for aarch64."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import shim_runs
from group_norm_oracle import case, oracle

from frcnn.ops import build

CHECKS = shim_runs.checks()
named = pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=[name for name, _ in CHECKS])

CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SANITIZERS = (
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-static-libasan",
    "-static-libubsan",
)
needs_cross_compiler = pytest.mark.skipif(
    shutil.which(CROSS_COMPILER) is None, reason=f"no {CROSS_COMPILER} (Debian: g++-aarch64-linux-gnu)"
)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    return shim_runs.build_cpu(tmp_path_factory.mktemp("cpu") / "sanitized", flags=SANITIZERS)


@named
@pytest.mark.parametrize("order", shim_runs.ORDERS)
def test_under_sanitizers(sanitized, check, order):
    check(sanitized, order)


@pytest.fixture(scope="module")
def group_norm(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    program = tmp_path_factory.mktemp("cpu") / "group_norm"
    sources = [shim_runs.KERNELS / "group_norm_cpu.cc", shim_runs.SHIM / "group_norm_main.cc"]
    flags = ["-std=c++17", "-w", "-Wno-psabi", *SANITIZERS, f"-I{shim_runs.KERNELS}"]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(program)], check=True, capture_output=True)
    return program


@pytest.mark.parametrize("order", shim_runs.ORDERS)
@pytest.mark.parametrize("dtype", range(len(shim_runs.FORMATS)), ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("shape", "groups"), [((2, 30, 20, 84), 7), ((3, 1, 1, 64), 32)])
def test_group_norm_under_sanitizers(group_norm, shape, groups, dtype, order):
    inputs, gamma, beta, upstream = case(shape)
    encode, decode, raw, _ = shim_runs.FORMATS[dtype]
    header = np.int64([shape[0], shape[1] * shape[2], shape[3], groups, dtype, 1])
    arrays = [header, encode(inputs), encode(upstream), gamma.astype(np.float32), beta.astype(np.float32)]
    sent = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    done = subprocess.run([str(group_norm), order], input=sent, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-1500:]
    rounded = [decode(encode(values)).astype(np.float64) for values in (inputs, upstream)]
    expected = oracle(rounded[0], gamma, beta, rounded[1], groups, 1e-3, True)
    size = inputs.size * np.dtype(raw).itemsize
    found = [decode(np.frombuffer(done.stdout[k * size : (k + 1) * size], raw)) for k in range(2)]
    found += np.split(np.frombuffer(done.stdout[2 * size :], np.float32), 2)
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted.ravel(), rtol=5e-3 if dtype else 1e-4, atol=1e-4 * abs(wanted).max())


@pytest.fixture(scope="module")
def on_aarch64(tmp_path_factory):
    program = shim_runs.build_cpu(tmp_path_factory.mktemp("cpu") / "aarch64", CROSS_COMPILER, ("-O2", "-static"))
    emulator = shutil.which(EMULATOR)
    if emulator is None:
        pytest.skip(f"it compiles, but {EMULATOR} is missing to run it (Debian: qemu-user-static)")
    return emulator, str(program)


@needs_cross_compiler
@named
def test_on_aarch64(on_aarch64, check):
    check(on_aarch64, "forward")


@needs_cross_compiler
def test_operations_compile_for_aarch64():
    flags, _ = build._tensorflow_flags()
    for source in build.TENSORFLOW_SOURCES:
        subprocess.run(
            [CROSS_COMPILER, *build.COMMON, *flags, "-fsyntax-only", str(build.SOURCES / source)],
            check=True,
            capture_output=True,
        )
