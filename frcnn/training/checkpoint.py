"""Checkpoints that survive a kill at any moment.

    checkpoints/step-00001200/   variables (tf.train.Checkpoint) and manifest.json

A checkpoint is written under a temporary name and renamed when complete. ``manifest.json`` (manifest.py) has a hash of
every file and of itself. A checkpoint is used only if all of it matches; if the newest one is damaged, the one before
is used.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from frcnn.atomic import PREFIX, atomic_folder, write_atomically
from frcnn.errors import UserError
from frcnn.training.manifest import MANIFEST, DamagedManifest, hash_file, read_manifest, write_manifest

NAME = re.compile(r"step-\d{8,}")
VARIABLES = "variables"
NOT_TRAINED = "not_trained"  # entry of the tracked objects
LEFTOVERS = (f"{PREFIX}*", ".aside-*")  # of killed processes; the second is the prefix of earlier versions
# TensorFlow's messages name the graph function and the operation, which says nothing to the user.
_INTERNALS = re.compile(r"\{\{function_node [^}]*\}\}|\{\{node [^}]*\}\}|\[Op:[^\]]*\]|\bname: $")


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


def track_variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> tf.train.Checkpoint:
    """All variables of a run.

    TensorFlow finds the variables of a Keras model, except those in lists of layers, such as the stages of a backbone,
    and those of the optimizer, which include all trained ones. The others are therefore named: frozen weights and the
    statistics of batch norms.
    """
    others = [variable.value for variable in model.non_trainable_variables]
    return tf.train.Checkpoint(model=model, optimizer=optimizer, **({NOT_TRAINED: others} if others else {}))


class Checkpoints:
    """The checkpoint folder of one run.

    Args:
        keep: number of checkpoints to keep.
        warn: called with a message for each damaged checkpoint, and for each file that cannot be removed.
        check_state: raises ValueError if a state cannot be used; such a checkpoint counts as damaged.
        size: bytes of a checkpoint, for the message about a full disk.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        warn: Callable[[str], None],
        check_state: Callable[[dict[str, Any]], None] = lambda _: None,
        size: int = 0,
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.warn = warn
        self.check_state = check_state
        self.size = size
        self._has_saved = False

    def save(self, tracked: tf.train.Checkpoint, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint of ``step`` and delete those beyond the newest ``keep``.

        Checkpoints with a higher step (abandoned run, damaged, or renumbered) are deleted as well.

        Raises:
            UserError: the disk is full or not writable; the previous checkpoints are intact, and nothing is left of
                this one.
        """
        final = self._folder_of(step)
        with self._report_failure(step):
            if self._has_saved and not self.folder.is_dir():
                self.warn(f"warning: folder {self.folder} was deleted during the run, with its checkpoints")
            self.folder.mkdir(parents=True, exist_ok=True)
            for pattern in LEFTOVERS:
                for leftover in self.folder.glob(pattern):
                    self._remove(leftover)
            if final.is_symlink() or (final.exists() and not final.is_dir()):
                self._remove(final)
            with atomic_folder(final) as folder:
                tracked.write(str(folder / VARIABLES))
                hashes = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
                (folder / MANIFEST).write_text(write_manifest(step, state, hashes))
            found = self._newest_first()
            newer = found[: found.index(final)]
            for other in (*newer, *found[len(newer) + self.keep :]):
                self._remove(other)
        self._has_saved = True
        return final

    def update_state(self, step: int, state: dict[str, Any]) -> None:
        """Replace what is stored beside the variables of a saved step.

        Raises:
            UserError: as for :meth:`save`; the checkpoint is unchanged.
        """
        folder = self._folder_of(step)
        with self._report_failure(step):
            hashes = read_manifest(folder).sha256
            write_atomically(folder / MANIFEST, write_manifest(step, state, hashes))

    @contextlib.contextmanager
    def _report_failure(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, DamagedManifest, tf.errors.OpError) as error:
            with contextlib.suppress(OSError):
                for leftover in self.folder.glob(f"{PREFIX}*"):  # half a checkpoint would keep a full disk full
                    self._remove(leftover)
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.folder} ({without_internals(error)}); "
                f"it needs {self.size:,} bytes, and {_free_space(self.folder)}. Free some space, or raise the quota, "
                "and rerun the same command to resume from the previous checkpoint"
            ) from error

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _remove(self, path: Path) -> None:
        """Delete a file, link or folder; a failure is a warning."""
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.warn(f"warning: {path} cannot be removed ({error.strerror or error}); remove it yourself")

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None if there are no checkpoints.

        Raises:
            UserError: checkpoints exist, but all are damaged; starting over must be the user's decision.
        """
        found = self._newest_first()
        reasons = []
        for folder in found:
            try:
                return self._verify(folder)
            except (OSError, ValueError) as error:
                reasons.append(f"checkpoint {folder} is damaged ({' '.join(str(error).split())})")
                self.warn(f"warning: {reasons[-1]} and is not used")
        if found:
            raise UserError(
                f"all {len(found)} checkpoints in {self.folder} are damaged; restore one, or delete the folder to "
                f"start over: {'; '.join(reasons)}"
            )
        return None

    def _verify(self, folder: Path) -> Checkpoint:
        """The checkpoint of a folder; raises OSError or ValueError with what is wrong."""
        manifest = read_manifest(folder)
        if folder.name != self._folder_of(manifest.step).name:
            raise DamagedManifest(f"{MANIFEST} is that of step {manifest.step}")
        unlisted = {path.name for path in folder.glob(f"{VARIABLES}*")} - manifest.sha256.keys()
        if unlisted or f"{VARIABLES}.index" not in manifest.sha256:
            raise DamagedManifest(f"{MANIFEST} does not list {min(unlisted, default=f'{VARIABLES}.index')}")
        for name, expected in manifest.sha256.items():
            if hash_file(folder / name) != expected:
                raise ValueError(f"{name} differs from its hash")
        self.check_state(manifest.state)
        return Checkpoint(folder, manifest.step, manifest.state)

    def lacks_variables(self, checkpoint: Checkpoint, tracked: tf.train.Checkpoint) -> bool:
        """Whether the checkpoint is of an earlier version, without most of the variables that are not trained."""
        names = tf.train.list_variables(str(checkpoint.folder / VARIABLES))
        return hasattr(tracked, NOT_TRAINED) and not any(name.startswith(f"{NOT_TRAINED}/") for name, _ in names)

    def restore(self, checkpoint: Checkpoint, tracked: tf.train.Checkpoint) -> None:
        """Set all tracked variables that the checkpoint has.

        Raises:
            UserError: the checkpoint belongs to another model or optimizer.
        """
        if self.lacks_variables(checkpoint, tracked):
            tracked = tf.train.Checkpoint(model=tracked.model, optimizer=tracked.optimizer)
        try:
            tracked.read(str(checkpoint.folder / VARIABLES)).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise UserError(
                f"checkpoint {checkpoint.folder} does not fit the model of this configuration "
                f"({without_internals(error)}); use the configuration it was made with, or set option 'output' to "
                "another folder"
            ) from error

    def _newest_first(self) -> list[Path]:
        """Paths named exactly as checkpoints are; others, such as a user's copies, are neither used nor deleted."""
        found = [path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def without_internals(error: BaseException) -> str:
    """The first line of an exception's message, without TensorFlow's references to its graph."""
    lines = [line.strip() for line in _INTERNALS.sub("", str(error)).splitlines()]
    return next((line.removesuffix("name:").strip() for line in lines if line), type(error).__name__)


def _free_space(folder: Path) -> str:
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        return f"{shutil.disk_usage(existing).free:,} bytes are free there"
    except OSError as error:
        return f"its free space is unknown ({error.strerror})"
