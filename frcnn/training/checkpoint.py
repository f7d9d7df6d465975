"""Checkpoints that survive a kill at any moment.

    checkpoints/step-00001200/   variables (tf.train.Checkpoint) and manifest.json: step, metrics, a hash of every file

A checkpoint is written into a folder aside and moved into place whole; it counts only while every hash in its manifest
agrees, so that a damaged newest one falls back to the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from frcnn.errors import UserError

MANIFEST = "manifest.json"
NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk.

    Attributes:
        step: optimiser steps taken.
        state: what the trainer stored beside the variables.
    """

    folder: Path
    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoint folder of one run."""

    def __init__(self, folder: Path, keep: int, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.keep = keep
        self.warn = warn

    def save(self, tracked: tf.train.Checkpoint, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint of ``step`` and delete those beyond the newest ``keep``.

        One with a higher number is of a run that was not gone on with, damaged or counted in other steps: it goes too.

        Raises:
            UserError: the disk is full or forbids it; the checkpoints before are whole.
        """
        with self._writing(step):
            return self._save(tracked, step, state)

    def restate(self, step: int, state: dict[str, Any]) -> None:
        """Replace what is stored beside the variables of a step that was saved.

        Raises:
            UserError: as for :meth:`save`; the checkpoint is as it was.
        """
        folder = self._folder_of(step)
        with self._writing(step):
            aside = folder / f"{MANIFEST}.new"
            aside.write_text(json.dumps(json.loads((folder / MANIFEST).read_text()) | {"state": state}, indent=2))
            _flush(aside)
            os.replace(aside, folder / MANIFEST)
            _flush(folder)

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"the checkpoint of step {step} cannot be written into {self.folder} ({' '.join(str(error).split())}); "
                "make room there, and run the same command: it goes on from the checkpoint before"
            ) from error

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _save(self, tracked: tf.train.Checkpoint, step: int, state: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".aside-*"):  # of a process that was killed while writing
            shutil.rmtree(leftover, ignore_errors=True)
        aside = self.folder / f".aside-{os.getpid()}"
        aside.mkdir()
        tracked.write(str(aside / "variables"))
        hashes = {path.name: _sha256(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps({"step": step, "state": state, "sha256": hashes}, indent=2))
        for path in aside.iterdir():
            _flush(path)
        final = self._folder_of(step)
        before = self.folder / f".aside-{os.getpid()}-before"
        if final.exists():
            os.replace(final, before)
        os.replace(aside, final)
        _flush(self.folder)
        shutil.rmtree(before, ignore_errors=True)
        found = self._newest_first()
        newer = found[: found.index(final)]
        for other in (*newer, *found[len(newer) + self.keep :]):
            shutil.rmtree(other)
        return final

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files are whole, or None where there is none at all.

        Raises:
            UserError: checkpoints exist and every one is damaged; starting afresh must be the user's decision.
        """
        found = self._newest_first()
        for folder in found:
            problem, checkpoint = _verify(folder)
            if checkpoint:
                return checkpoint
            self.warn(f"checkpoint {folder} is damaged ({problem}) and is not used")
        if found:
            raise UserError(
                f"all {len(found)} checkpoints in {self.folder} are damaged; restore one, or delete the folder to start afresh"
            )
        return None

    def restore(self, checkpoint: Checkpoint, tracked: tf.train.Checkpoint) -> None:
        """Set all tracked variables.

        Raises:
            UserError: the checkpoint belongs to another model or optimiser.
        """
        try:
            tracked.read(str(checkpoint.folder / "variables")).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {checkpoint.folder} does not fit the model of this configuration ({first}); "
                "use the configuration it was made with, or another output folder"
            ) from error

    def _newest_first(self) -> list[Path]:
        """What is named otherwise, such as a copy that someone made, is not ours to delete or to go on from."""
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


def _flush(path: Path) -> None:
    """Force a file or folder entry to the disk, so that a move never outlives the bytes it moved."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
