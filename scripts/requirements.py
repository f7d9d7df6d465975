#!/usr/bin/env python3
"""Prints frcnn's requirements, one per line: ``requirements.py [EXTRA...]``.

pip has no option to install only the dependencies, and an image needs them in a separate layer below the package.
TensorFlow is omitted, because its package depends on the device.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(project: dict, extras: list[str]) -> list[str]:
    """The project's requirements, then those of the extras; KeyError for an unknown extra."""
    chosen = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [line for line in chosen if not line.startswith(("tensorflow=", "tensorflow["))]


if __name__ == "__main__":
    print("\n".join(requirements(tomllib.loads(PYPROJECT.read_text())["project"], sys.argv[1:])))
