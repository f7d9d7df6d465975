"""Checks the documentation: links, line lengths, commands and their options.

    python tools/check_docs.py          prints every problem with its file and line; exits with 1 if there is one

A link must point to an existing file and heading. Every `frcnn VERB ...` must be a command with options that exist,
and every KEY=VALUE after `frcnn train` an option. Lines are wrapped at 120 columns, except tables, code and links.
tests/test_docs.py executes blocks fenced as `sh` or `python`; a block that is not executed says why: `sh aws`,
`sh gpu`, `sh docker`, `sh setup` (done before the tests) or `sh data` (needs the reader's images).
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
from frcnn.config import Config, option_names

REPOSITORY = Path(__file__).resolve().parents[1]
REASONS = ("", "aws", "gpu", "docker", "setup", "data")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*) ?(.*)$")
_MAX_COLUMNS = 120
_COMMAND = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/|docker run .*? )?(frcnn [a-z].*)$")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        line: number of its first line.
        language: ``sh``, ``python`` and the like.
        reason: why it is not executed; empty if it is.
    """

    line: int
    language: str
    reason: str
    text: str

    @property
    def executed(self) -> bool:
        return self.language in ("sh", "python") and not self.reason

    @property
    def lines(self) -> range:
        return range(self.line, self.line + self.text.count("\n") + 1)


def pages(repository: Path) -> list[Path]:
    """The Markdown files of the documentation."""
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
    """What is wrong in a page, with file and line."""
    name = page.relative_to(repository)
    fenced = {line for block in blocks(page) for line in block.lines}
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        for target in _LINK.findall(line):
            yield from (f"{name}:{number}: {problem}" for problem in _link_problems(target, page))
        may_be_long = number in fenced or line.startswith(("|", "    ")) or "](" in line
        if len(line) > _MAX_COLUMNS and not may_be_long:
            yield f"{name}:{number}: line has {len(line)} characters; wrap at {_MAX_COLUMNS}"
    for number, command in _commands(page):
        yield from (f"{name}:{number}: {problem}" for problem in _command_problems(command))
    for block in blocks(page):
        if block.language in ("sh", "python") and block.reason not in REASONS:
            expected = ", ".join(REASONS[1:])
            reason = f"the reason {block.reason!r} of a fenced block is unknown"
            yield f"{name}:{block.line}: {reason}; expected {expected} or none"


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def _link_problems(target: str, page: Path) -> Iterator[str]:
    if "://" in target or target.startswith("mailto:"):
        return
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.exists():
        yield f"link to {target}, which does not exist"
    elif anchor and path.suffix == ".md" and anchor not in headings(path):
        yield f"link to {target}: {path.name} has no such heading"


def _commands(page: Path) -> Iterator[tuple[int, str]]:
    """The frcnn commands with their lines; a backslash joins lines, a comment ends a command."""
    text = page.read_text(encoding="utf-8").splitlines()
    fenced = {line for block in blocks(page) for line in block.lines}
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


def _command_problems(command: str) -> Iterator[str]:
    try:
        words = shlex.split(command, comments=True)[1:]
    except ValueError as error:
        yield f"{command!r} cannot be read: {error}"
        return
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&", ";", "2>")), len(words))]
    verb: click.Command = command_line
    depth = 0
    while isinstance(verb, click.Group) and depth < len(words) and not words[depth].startswith("-"):
        found = verb.commands.get(words[depth])
        depth += 1
        if found is None:
            yield f"'frcnn {' '.join(words[:depth])}' is not a command"
            return
        verb = found
    name = " ".join(words[:depth])
    try:
        verb.make_parser(click.Context(verb, info_name=name)).parse_args(words[depth:])
    except click.UsageError as error:
        yield f"'frcnn {name}': {error.format_message()}"
    if words[0] == "train":
        for word in words[1:]:
            key, equals, _ = word.partition("=")
            if equals and key[0] not in "-[" and key not in option_names(Config):
                yield f"'frcnn train': {key!r} is not an option"


def main() -> int:
    found = [problem for page in pages(REPOSITORY) for problem in problems(page, REPOSITORY)]
    print("\n".join(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
