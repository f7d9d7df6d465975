"""Help pages, and the commands that documents and help pages name."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command_line import frcnn

from frcnn.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent


def test_help_imports_nothing_heavy() -> None:
    heavy = {"tensorflow", "numpy", "keras", "PIL", "matplotlib", "boto3"}
    script = f"import sys, frcnn.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help_with_an_example_that_parses(command: str) -> None:
    result = frcnn(command, "--help")
    assert result.exit_code == 0
    examples = [line.strip() for line in result.stdout.partition("Example:")[2].splitlines() if line.strip()]
    assert examples
    for example in examples:
        program, named, *arguments = shlex.split(example, comments=True)
        assert (program, named) == ("frcnn", command)
        main.commands[command].make_context(command, arguments)  # a usage error is raised here


def test_help_lists_the_commands() -> None:
    result = frcnn("--help")
    listed = set(re.findall(r"^  ([a-z-]+)  ", result.stdout, re.M))
    assert {"train", "evaluate", "predict", "check-dataset", "make-shapes", "import-weights", "doctor"} <= listed
    assert "..." not in result.stdout.partition("Commands:")[2]  # no description is cut off


def test_version() -> None:
    assert re.fullmatch(r"frcnn, version \d+\.\d+\.\d+\n", frcnn("--version").stdout)


def test_the_commands_of_the_readme_and_contributing_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for page in ("README.md", "CONTRIBUTING.md"):
        lines = [line.strip() for line in (REPOSITORY / page).read_text().splitlines() if line.startswith("    ")]
        commands = [line.split("#")[0].split() for line in lines]
        for command in commands:
            words = [word for word in command if "=" not in word or word.startswith("-")]
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", makefile, re.M), command
            if words[:1] == ["frcnn"]:
                main.commands[command[1]].make_context(command[1], command[2:])
        assert any(command[:1] == ["make"] for command in commands)


def test_recipes_named_in_examples_exist() -> None:
    context = click.Context(main)
    named = {
        name
        for command in main.commands.values()
        for name in re.findall(r"configs/\S+\.yaml", command.get_help(context))
    }
    assert named
    assert all((REPOSITORY / name).exists() for name in named)


def test_commands_that_detect_a_split_have_the_same_options_for_it() -> None:
    shared = {"split", "images", "annotations", "box_format", "batch_size", "tile", "overlap", "test", "model", "data"}
    for name in ("evaluate", "report", "thresholds"):
        assert shared <= {parameter.name for parameter in main.commands[name].params}, name
