"""The CPU kernels without TensorFlow: under sanitizers, in any order of their chunks, and for aarch64."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import resize_checks
import shim_runs

from frcnn.ops import build

CHECKS = [*shim_runs.checks(), *resize_checks.checks()]
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
