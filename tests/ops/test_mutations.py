"""The host runs of the CUDA files detect defects: a few mutants; tools/kernel_mutations.py runs all of them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "kernel_mutations", Path(__file__).parents[2] / "tools" / "kernel_mutations.py"
)
kernel_mutations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel_mutations)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize(
    ("what", "modes"),
    [("32-bit mask", ("fibers",)), ("swapped weight", ("fibers",)), ("++ for atomicAdd", ("threads",))],
)
def test_mutant_is_detected(what, modes):
    assert kernel_mutations.detected_by(kernel_mutations.mutants(what)[-1], modes)
