"""Keep docs/errors.md in step with the code: every message of ours has its line, and no line is left of one that is gone.

What stands before the first heading with messages is written by hand, and so is what follows a message after the colon; both are kept.

    python tools/error_page.py          writes the page
    python tools/error_page.py --check  exit code 1 where it would be another
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "errors.md"
START = "<!-- From here on: python tools/error_page.py. What follows a message's colon is kept. -->"
# Heading, and the modules below it; the first that fits counts.
SECTIONS = (
    ("Options and recipes", ("config/",)),
    ("Data", ("data/",)),
    ("Models, weights and export", ("weights/", "export", "modeling/", "inference", "prediction")),
    ("Training", ("training/", "evaluation/")),
    ("Several processes and hosts", ("distributed/",)),
    (
        "Starting jobs and endpoints on SageMaker",
        tuple(
            f"sagemaker/{name}"
            for name in (
                "account",
                "hosting",
                "image_uri",
                "inputs",
                "instances",
                "launch",
                "model_trainer",
                "mpi_options",
            )
        )
        + ("sagemaker/rehearsal", "sagemaker/service_model", "sagemaker/training_job"),
    ),
    ("In the container", ("sagemaker/",)),
    ("Serving", ("serving/",)),
    ("Command line", ("",)),
)
HOLE = "…"


def messages(package: Path) -> Iterator[tuple[str, str]]:
    """(module, message) of each sentence for a user; what is filled in is a hole. Messages that another function makes are left out."""
    for file in sorted(package.rglob("*.py")):
        module = file.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                kind, words = node.exc.func.id, node.exc.args
                if (kind == "UserError" or (kind == "ValueError" and _reaches_users(module))) and words:
                    yield from _of(module, words[0])
                elif kind == "Refusal" and len(words) > 1:
                    yield from _of(module, words[1])


def render(package: Path, page: str) -> str:
    """The page with a line for each message and the notes that the old page has."""
    head, _, old = page.partition(START)
    notes = {}
    for line in old.splitlines():
        if line.startswith("* `` "):
            message, _, note = line.removeprefix("* `` ").partition(" ``")
            notes[message] = note
    by_section: dict[str, set[str]] = {heading: set() for heading, _ in SECTIONS}
    for module, message in messages(package):
        by_section[_section(module)].add(message)
    lines = [head.rstrip(), "", START]
    for heading, found in by_section.items():
        if found:
            lines += ["", f"## {heading}", ""]
            lines += [
                f"* `` {message} ``{notes.get(message, '')}"
                for message in sorted(found, key=lambda text: text.lstrip(f"{HOLE}:, ").lower())
            ]
    return "\n".join(lines) + "\n"


def _reaches_users(module: str) -> bool:
    """Whether a ValueError is one of pydantic's validators, whose text becomes part of a sentence for a user."""
    return module in ("config/schema.py", "sagemaker/hosting.py", "sagemaker/training_job.py")


def _of(module: str, expression: ast.expr) -> Iterator[tuple[str, str]]:
    text = re.sub(f"{HOLE}+", HOLE, " ".join(_text(expression).split()))
    if text.replace(HOLE, "").strip(" :;,."):
        yield module, text


def _text(expression: ast.expr) -> str:
    if isinstance(expression, ast.Constant):
        return str(expression.value)
    if isinstance(expression, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else HOLE for part in expression.values)
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
        return _text(expression.left) + _text(expression.right)
    return HOLE


def _section(module: str) -> str:
    return next(heading for heading, prefixes in SECTIONS if module.startswith(prefixes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    rendered = render(REPOSITORY / "frcnn", page)
    if arguments.check:
        if rendered != page:
            print("docs/errors.md is not that of the code: run python tools/error_page.py", file=sys.stderr)
        return int(rendered != page)
    PAGE.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
