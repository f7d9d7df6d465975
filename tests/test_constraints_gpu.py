"""constraints-gpu.txt pins what TensorFlow's extra and-cuda asks for."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    return {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in requirements}


def test_every_cuda_library_is_pinned_once_to_a_version_that_tensorflow_accepts():
    installed = next((name for name in ("tensorflow", "tensorflow-cpu") if _is_installed(name)), None)
    cuda = [
        requirement
        for requirement in map(Requirement, importlib.metadata.requires(installed) or [])
        if requirement.marker and requirement.marker.evaluate({"extra": "and-cuda"}) and "nvidia" in requirement.name
    ]
    if not cuda:
        pytest.skip("this TensorFlow package has no extra and-cuda")
    general, gpu = pins("constraints.txt"), pins("constraints-gpu.txt")
    assert not set(general) & set(gpu)
    pinned = general | gpu
    assert {requirement.name for requirement in cuda} <= set(pinned)
    assert set(gpu) <= {requirement.name for requirement in cuda}
    for requirement in cuda:
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
