"""The floors of docs/architecture.md: a file imports from floors below its own, and only one room knows Horovod and MPI."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "frcnn"

# From the ground up; rooms of one floor do not know each other.
FLOORS = [
    {"errors"},
    {"boxes", "config", "distributed", "startup"},
    {"data", "ops"},
    {"modeling"},
    {"weights"},
    {"inference", "export"},
    {"evaluation"},
    {"training", "serving", "prediction"},
    {"sagemaker", "doctor"},
    {"cli"},
    {"sagemaker/entrypoint"},  # process 1 hands verbs to the command line
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def room_of(file: Path) -> str:
    path = file.relative_to(PACKAGE).with_suffix("").as_posix()
    return path if path in FLOOR else path.split("/")[0]


def imported(file: Path) -> Iterator[str]:
    """Full names of the modules that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "frcnn":
            yield from (f"frcnn.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_file_imports_from_floors_below_its_own(file: Path) -> None:
    room = room_of(file)
    for module in imported(file):
        if module.startswith("frcnn.") and module != "frcnn.__version__":
            other = "/".join(module.split(".")[1:])
            other = other if other in FLOOR else other.split("/")[0]
            assert other == room or FLOOR[other] < FLOOR[room], f"{file} imports {module}"
        if module.split(".")[0] in ("horovod", "mpi4py"):
            assert room == "distributed", f"{file} imports {module}"
