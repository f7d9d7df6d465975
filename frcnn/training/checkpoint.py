"""Checkpoints that survive a kill at any moment.

    checkpoints/step-00001200/   variables (tf.train.Checkpoint) and manifest.json: step, state, a hash of every file

A checkpoint is written under a temporary name and renamed when complete. It is used only if every file matches its hash
in the manifest; if the newest one is damaged, the one before is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from frcnn.atomic import atomic_folder, remove_incomplete, write_atomically
from frcnn.errors import UserError

MANIFEST = "manifest.json"
NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk.

    Attributes:
        step: optimizer steps taken.
        state: what the trainer stored beside the variables.
    """

    folder: Path
    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoint folder of one run.

    Args:
        keep: number of checkpoints to keep.
        warn: called with a message for each damaged checkpoint.
    """

    def __init__(self, folder: Path, keep: int, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.keep = keep
        self.warn = warn

    def save(self, tracked: tf.train.Checkpoint, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint of ``step`` and delete those beyond the newest ``keep``.

        Checkpoints with a higher step (abandoned run, damaged, or renumbered) are deleted as well.

        Raises:
            UserError: the disk is full or not writable; the previous checkpoints are intact.
        """
        final = self._folder_of(step)
        with self._report_failure(step):
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_incomplete(self.folder)
            with atomic_folder(final) as folder:
                tracked.write(str(folder / "variables"))
                hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
                manifest = {"step": step, "state": state, "sha256": hashes}
                (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))
            found = self._newest_first()
            newer = found[: found.index(final)]
            for other in (*newer, *found[len(newer) + self.keep :]):
                shutil.rmtree(other)
        return final

    def update_state(self, step: int, state: dict[str, Any]) -> None:
        """Replace what is stored beside the variables of a saved step.

        Raises:
            UserError: as for :meth:`save`; the checkpoint is unchanged.
        """
        manifest = self._folder_of(step) / MANIFEST
        with self._report_failure(step):
            write_atomically(manifest, json.dumps(json.loads(manifest.read_text()) | {"state": state}, indent=2))

    @contextlib.contextmanager
    def _report_failure(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.folder} ({' '.join(str(error).split())}); "
                "free some space and rerun the same command to resume from the previous checkpoint"
            ) from error

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None if there are no checkpoints.

        Raises:
            UserError: checkpoints exist, but all are damaged; starting over must be the user's decision.
        """
        found = self._newest_first()
        for folder in found:
            problem, checkpoint = _verify(folder)
            if checkpoint:
                return checkpoint
            self.warn(f"checkpoint {folder} is damaged ({problem}) and is not used")
        if found:
            raise UserError(
                f"all {len(found)} checkpoints in {self.folder} are damaged; restore one, or delete the folder to "
                "start over"
            )
        return None

    def restore(self, checkpoint: Checkpoint, tracked: tf.train.Checkpoint) -> None:
        """Set all tracked variables.

        Raises:
            UserError: the checkpoint belongs to another model or optimizer.
        """
        try:
            tracked.read(str(checkpoint.folder / "variables")).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {checkpoint.folder} does not fit the model of this configuration ({first}); "
                "use the configuration it was made with, or set option 'output' to another folder"
            ) from error

    def _newest_first(self) -> list[Path]:
        """Folders named exactly as checkpoints are; others, such as a user's copies, are neither used nor deleted."""
        found = [folder for folder in self.folder.glob("step-*") if NAME.fullmatch(folder.name)]
        return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


def _verify(folder: Path) -> tuple[str, Checkpoint | None]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest["sha256"].items():
            if _sha256(folder / name) != expected:
                return f"{name} differs from its hash", None
        return "", Checkpoint(folder, int(manifest["step"]), manifest["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}", None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
