"""Builds the kernels into the package where TensorFlow is importable; all else is in pyproject.toml.

An isolated build (plain ``pip install .``) does not see TensorFlow: the first use compiles them then. With
``pip install --no-build-isolation .`` beside an installed TensorFlow, as in the Docker image, they are part of
the package.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

AHEAD_OF_TIME = importlib.util.find_spec("tensorflow") is not None


class BuildWithKernels(build_py):
    """Copies the package, then adds the library for the TensorFlow that is installed."""

    def run(self) -> None:
        super().run()
        if not AHEAD_OF_TIME or self.editable_mode:
            return
        sys.path.insert(0, str(Path(__file__).parent))
        from frcnn.ops import build

        library = build.build_ahead(Path(self.build_lib) / "frcnn" / "ops" / "prebuilt")
        for lock in library.parent.glob("*.lock"):  # no other process builds there
            lock.unlink()


class PlatformDistribution(Distribution):
    """A wheel with a library in it is for one platform."""

    def has_ext_modules(self) -> bool:
        return AHEAD_OF_TIME


setup(cmdclass={"build_py": BuildWithKernels}, distclass=PlatformDistribution)
