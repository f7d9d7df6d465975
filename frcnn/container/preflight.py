"""Checks at the start of a training job, so that it does not fail after hours: its outputs, and a user's program."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from frcnn.container.environment import Environment
from frcnn.errors import UserError

PROBE_BYTES = 1 << 20  # written to every output folder, because a full disk accepts an empty file


def check_job(environment: Environment, toolkit: bool) -> None:
    """Check what this host needs before its runner starts.

    Args:
        toolkit: whether SageMaker's toolkit runs the job.

    Raises:
        UserError: an output folder cannot be written, or the user's program does not exist.
    """
    if environment.training_module:
        return
    if environment.program:
        _check_program(environment, environment.program)
        return
    _check_writable(environment.model, "the model is")
    _check_writable(environment.output, "reports are")
    if environment.checkpoints:
        _check_writable(environment.checkpoints, "checkpoints are")
    if toolkit:
        _check_writable(environment.code, "the toolkit's program is")


def _check_writable(folder: Path, content: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"folder {folder}, where {content} saved, cannot be written ({error.strerror}); mount it writable, on a "
            "disk with free space"
        ) from error


def _check_program(environment: Environment, program: str) -> None:
    """The toolkit runs ``program`` in the code folder, which it fills from ``sagemaker_submit_directory`` if empty."""
    folder = environment.code
    source = environment.reserved.get("sagemaker_submit_directory")
    if source and not (folder.is_dir() and any(folder.iterdir())):
        if source.startswith("s3://") or Path(source).is_file():
            return  # the toolkit downloads or unpacks it
        folder = Path(source)
    # With a setup.py the toolkit installs the folder as a package and runs the program as a module.
    if not (folder / program).is_file() and not (folder / "setup.py").is_file():
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise UserError(
            f"SAGEMAKER_PROGRAM is {program!r}, which is not in {folder} (found: {', '.join(found[:5]) or 'nothing'}); "
            "add it, or set the hyperparameter sagemaker_submit_directory to its folder"
        )
