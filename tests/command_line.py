"""Runs commands of the command line in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from frcnn.cli import main


def frcnn(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> str:
    """The one line on standard error of a command that fails with a user error."""
    result = frcnn(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("frcnn: ")
    return line
