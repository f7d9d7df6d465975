"""The pages against the code: links, commands, messages; and what they let a reader type, typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tools"))

import check_docs  # noqa: E402
import error_page  # noqa: E402

PAGES = check_docs.pages(REPOSITORY)
EXECUTED = [
    page for page in PAGES if any(block.language == "sh" and not block.reason for block in check_docs.blocks(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands(page: Path) -> None:
    assert list(check_docs.problems(page, REPOSITORY)) == []


def test_every_message_of_ours_has_its_line() -> None:
    """Mend it by: python tools/error_page.py"""
    page = error_page.PAGE.read_text(encoding="utf-8")
    rendered = error_page.render(REPOSITORY / "frcnn", page)
    assert set(rendered.splitlines()) - set(page.splitlines()) == set()
    assert rendered == page


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_what_a_reader_types(page: Path, tmp_path: Path) -> None:
    """The blocks fenced as sh, one after the other in one shell, in a folder that has the recipes."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    script = "\n".join(
        [
            "set -euo pipefail",
            *(block.text for block in check_docs.blocks(page) if block.language == "sh" and not block.reason),
        ]
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_first_run_is_among_them() -> None:
    assert {"first_run.md", "sagemaker.md"} <= {page.name for page in EXECUTED}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a](missing.md)", "link to missing.md, which does not exist"),
        ("[a](#nowhere)", "link to #nowhere: page.md has no such heading"),
        ("    frcnn trian --config a", "'frcnn trian' is no verb"),
        ("```sh data\nfrcnn train --confg a\n```", "'frcnn train': No such option '--confg'"),
        ("    frcnn train --config a \\\n        trainig.epochs=3", "'frcnn train': 'trainig.epochs' is no option"),
        ("```sh mars\n```", "a block is fenced as 'sh mars'"),
    ],
)
def test_what_is_found(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "page.md").write_text(
        f"# A heading\n\n[ok](#a-heading) [ok](page.md) frcnn trains\n\n    frcnn doctor  # fine\n\n{text}\n"
    )
    problems = list(check_docs.problems(tmp_path / "page.md", tmp_path))
    assert len(problems) == 1, problems
    assert said in problems[0]


def test_messages_are_found_however_they_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "schema.py").write_text(
        'raise UserError(f"file {name} is " + "gone" + more)\nraise ValueError("inside pydantic")\nraise UserError(made(elsewhere))\n'
    )
    (tmp_path / "other.py").write_text('raise ValueError("a bug")\nraise Refusal(406, f"no {media}")\n')
    old = f"head\n\n{error_page.START}\n* `` file … is gone… ``: kept.\n* `` stale ``\n"
    assert error_page.render(tmp_path, old) == (
        f"head\n\n{error_page.START}\n\n## Options and recipes\n\n* `` file … is gone… ``: kept.\n* `` inside pydantic ``\n"
        "\n## Command line\n\n* `` no … ``\n"
    )
