"""Process 1 of the container: runs a training job, an endpoint, a command of ``frcnn``, any other program, or a shell.

SageMaker starts a container with the single argument ``train`` or ``serve``; with further arguments these two are
commands of ``frcnn``. In every case signals are forwarded, orphans are reaped, and the container exits with its child's
exit code.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from frcnn.container.init import Init
from frcnn.errors import print_message

SHELL = ("/bin/bash",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; returns the container's exit code."""
    init = Init()  # first of all: process 1 has no default signal handlers
    words = list(sys.argv[1:] if arguments is None else arguments)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if not words and (reason := _training_job(os.environ)):
        print_message(f"no command was given, but {reason}: running 'train' (for a shell: docker run -it IMAGE bash)")
        words = ["train"]
    if words == ["train"]:
        from frcnn.container.run_training import run_training

        return run_training(init, variables)
    if words == ["serve"]:
        return init.run((sys.executable, "-m", "frcnn.container.serve"), variables)
    if not words:
        return init.run(SHELL, os.environ)
    if (
        words[0].startswith("-")
        or words[0] in ("train", "serve")
        or (shutil.which(words[0]) is None and _is_verb(words[0]))
    ):
        words = [sys.executable, "-m", "frcnn", *words]
    return init.run(words, os.environ)


def _training_job(variables: Mapping[str, str]) -> str | None:
    """Why a container without a command belongs to a training job, or None.

    The local mode of SageMaker's SDK v3 starts the image without a command.
    """
    if variables.get("TRAINING_JOB_NAME"):
        return "TRAINING_JOB_NAME is set"
    from frcnn.container.environment import base_folder

    config: Path = base_folder(variables) / "input" / "config"
    return f"{config} exists" if config.is_dir() else None


def _is_verb(word: str) -> bool:
    from frcnn.cli import main as command_line

    return word in command_line.commands


if __name__ == "__main__":
    sys.exit(main())
