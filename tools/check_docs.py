"""What can go stale in the pages: links, pictures, commands and their options.

    python tools/check_docs.py          prints every problem with its file and line; exit code 1 where there is one

A link must lead to a file of the repository and to a heading of it. Every `frcnn VERB …` must be a verb with options that it has, and
every KEY=VALUE after it an option. A block fenced as `sh` is executed by tests/test_docs.py; other commands are fenced with why they are
not: `sh aws`, `sh gpu`, `sh docker`, `sh setup` (what a test environment did already) or `sh data` (needs pictures that are not ours).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from frcnn.cli import main as command_line
from frcnn.config import option_names

REPOSITORY = Path(__file__).resolve().parents[1]
REASONS = ("", "aws", "gpu", "docker", "setup", "data")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*) ?(.*)$")
_COMMAND = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/|docker run .*? )?(frcnn [a-z].*)$")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        line: number of its first line.
        language: ``sh`` and the like.
        reason: why it is not executed; empty where it is.
    """

    line: int
    language: str
    reason: str
    text: str


def pages(repository: Path) -> list[Path]:
    """The Markdown files that a reader is sent to."""
    return sorted([*repository.glob("*.md"), *(repository / "docs").rglob("*.md")])


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    fence: re.Match[str] | None = None
    start, lines = 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        found = _FENCE.match(line)
        if fence is None and found:
            fence, start, lines = found, number + 1, []
        elif fence is not None and line.startswith("```"):
            yield Block(start, fence[1], fence[2].strip(), "\n".join(lines))
            fence = None
        elif fence is not None:
            lines.append(line)


def problems(page: Path, repository: Path) -> Iterator[str]:
    """What is wrong in a page, each with its place."""
    name = page.relative_to(repository)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        for target in _LINK.findall(line):
            yield from (f"{name}:{number}: {problem}" for problem in _broken(target, page))
    for number, command in _commands(page):
        yield from (f"{name}:{number}: {problem}" for problem in _refused(command))
    for block in blocks(page):
        if block.language == "sh" and block.reason not in REASONS:
            yield f"{name}:{block.line}: a block is fenced as 'sh {block.reason}'; expected sh, or sh and one of {', '.join(REASONS[1:])}"


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def _broken(target: str, page: Path) -> Iterator[str]:
    if "://" in target or target.startswith("mailto:"):
        return
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.exists():
        yield f"link to {target}, which does not exist"
    elif anchor and path.suffix == ".md" and anchor not in headings(path):
        yield f"link to {target}: {path.name} has no such heading"


def _commands(page: Path) -> Iterator[tuple[int, str]]:
    """Commands of ours with their lines; a backslash joins lines, a comment ends one."""
    text = page.read_text(encoding="utf-8").splitlines()
    fenced = {line for block in blocks(page) for line in range(block.line, block.line + block.text.count("\n") + 1)}
    number = 0
    while number < len(text):
        first, line = number, text[number]
        while line.endswith("\\") and number + 1 < len(text):
            number += 1
            line = line[:-1] + " " + text[number].strip()
        number += 1
        found = _COMMAND.match(line)
        if found and (line.startswith("    ") or first + 1 in fenced):
            yield first + 1, found[1]


def _refused(command: str) -> Iterator[str]:
    try:
        words = shlex.split(command, comments=True)[1:]
    except ValueError as error:
        yield f"{command!r} cannot be read: {error}"
        return
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&", ";", "2>")), len(words))]
    verb = command_line.commands.get(words[0])
    if verb is None:
        yield f"'frcnn {words[0]}' is no verb"
        return
    try:
        verb.make_parser(click.Context(verb, info_name=words[0])).parse_args(words[1:])
    except click.UsageError as error:
        yield f"'frcnn {words[0]}': {error.format_message()}"
    if words[0] == "train":
        for word in words[1:]:
            key, equals, _ = word.partition("=")
            if equals and key[0] not in "-[" and key not in option_names():
                yield f"'frcnn train': {key!r} is no option"


def main() -> int:
    found = [problem for page in pages(REPOSITORY) for problem in problems(page, REPOSITORY)]
    print("\n".join(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
