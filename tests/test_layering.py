"""The layers of the package, of which this file is the definition.

A module imports only from its own package and from layers below it; packages of one layer do not know each other. Only
``distributed`` imports Horovod and mpi4py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "frcnn"

# Bottom to top; docs/architecture.md says what each package is for.
LAYERS = [
    {"errors"},
    {"atomic", "boxes", "config", "distributed", "drawing", "gpus", "per_shape", "startup"},
    {"ops"},
    {"data"},
    {"modeling"},
    {"weights"},
    {"inference", "export"},
    {"tiling"},
    {"evaluation"},
    {"report"},
    {"training", "serving", "prediction"},
    {"container", "doctor"},
    {"aws"},
    {"cli"},
    {"__main__", "entrypoint"},
]
LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def imported_modules(file: Path) -> Iterator[str]:
    """Full names of the modules that a file imports anywhere, including inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "frcnn":
            yield from (f"frcnn.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(file: Path) -> None:
    package = file.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imported_modules(file):
        if module.startswith("frcnn.") and module != "frcnn.__version__":
            other = module.split(".")[1]
            assert other == package or LAYER[other] < LAYER[package], f"{file} imports {module}"
        if module.split(".")[0] in ("horovod", "mpi4py"):
            assert package == "distributed", f"{file} imports {module}"
