#!/usr/bin/env python3
"""Prints what frcnn requires, one requirement a line, without installing frcnn itself: ``requirements.py [EXTRA...]``.

pip has no such option, and an image wants the dependencies in a layer of their own, below the one that changes every day.
TensorFlow is left out: which package of it is installed depends on the device.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(project: dict, extras: list[str]) -> list[str]:
    """The project's own requirements, then those of the extras; KeyError for an extra that is not there."""
    chosen = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [line for line in chosen if not line.startswith(("tensorflow=", "tensorflow["))]


if __name__ == "__main__":
    print("\n".join(requirements(tomllib.loads(PYPROJECT.read_text())["project"], sys.argv[1:])))
