"""The documentation against the code: links, commands and options are valid, and the commands and snippets run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tools"))

import check_docs  # noqa: E402

PAGES = check_docs.pages(REPOSITORY)
EXECUTED = [page for page in PAGES if any(block.executed for block in check_docs.blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands(page: Path) -> None:
    assert list(check_docs.problems(page, REPOSITORY)) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_executed_blocks(page: Path, tmp_path: Path) -> None:
    """Blocks fenced as sh run in one shell, in a folder with the recipes; those fenced as python in one process."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    executed = [block for block in check_docs.blocks(page) if block.executed]
    shell = "\n".join(["set -euo pipefail", *(block.text for block in executed if block.language == "sh")])
    python = "\n".join(block.text for block in executed if block.language == "python")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (["bash", "-c", shell], [sys.executable, "-c", python]):
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_pages_for_newcomers_are_executed() -> None:
    assert {"first_run.md", "python_api.md", "sagemaker.md"} <= {page.name for page in EXECUTED}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](missing.md)", "link to missing.md, which does not exist"),
        ("[a](#nowhere)", "link to #nowhere: page.md has no such heading"),
        ("    frcnn trian --config a", "'frcnn trian' is not a command"),
        ("    frcnn convert yalo data --out x", "'frcnn convert yalo' is not a command"),
        ("    frcnn convert yolo data --uot x", "'frcnn convert yolo': No such option '--uot'"),
        ("```sh data\nfrcnn train --confg a\n```", "'frcnn train': No such option '--confg'"),
        ("    frcnn train --config a \\\n        trainig.epochs=3", "'frcnn train': 'trainig.epochs' is not an option"),
        ("```sh mars\n```", "the reason 'mars' of a fenced block is unknown"),
        (f"{'words ' * 20}end", "line has 123 characters; wrap at 120"),
    ],
)
def test_problems_are_reported(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "page.md").write_text(
        f"# A heading\n\n[ok](#a-heading) [ok](page.md) frcnn trains\n\n    frcnn doctor  # fine\n\n{text}\n"
    )
    problems = list(check_docs.problems(tmp_path / "page.md", tmp_path))
    assert len(problems) == 1, problems
    assert problem in problems[0]
