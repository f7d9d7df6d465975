"""Where a run starts: at its newest checkpoint, from given weights, or from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from frcnn.config import Config, changed_options
from frcnn.errors import UserError
from frcnn.training.checkpoint import Checkpoint, Checkpoints
from frcnn.weights.initial_weights import check_random_initialization, start_from
from frcnn.weights.model_files import WEIGHTS

# Prefixes of options that do not change what is learned: places of files, length of the run, reports.
NOT_LEARNED_FROM = (
    "output",
    "data.root",
    "data.train.",
    "data.validation.",
    "data.workers",
    "data.max_bad_image_share",
    "ops.",
    "distributed.",
    "training.epochs",
    "training.evaluate_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "training.log_every",
)


class ResumeState(NamedTuple):
    """The progress of the run so far; the defaults are those of a run that starts.

    Attributes:
        step: steps taken.
        saved_step: step of the checkpoint that holds exactly these variables, if there is one.
        best_ap: validation AP of the model in the model folder; None if there is no model yet.
        evaluation_pending: the variables of this step are still to be evaluated.
    """

    step: int = 0
    saved_step: int | None = None
    best_ap: float | None = None
    evaluation_pending: bool = False


@dataclass(frozen=True)
class RunStart:
    """Everything that decides where a run starts.

    Attributes:
        tracked: ``model`` and ``optimizer``, whose variables are set.
        class_names: of the labels 1..K.
        fingerprint: of the training data.
        messages: gets what the user should know.
    """

    config: Config
    checkpoints: Checkpoints
    tracked: tf.train.Checkpoint
    class_names: Sequence[str]
    fingerprint: str
    steps_per_epoch: int
    total_steps: int
    model_folder: Path
    messages: list[str]

    def restore_or_initialize(self) -> ResumeState:
        """Restore the newest checkpoint; without one, load ``config.weights`` or keep the random weights.

        Raises:
            UserError: checkpoint or weights cannot be used, or the run is finished and had other options.
        """
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            if self.config.weights:
                self.messages.extend(start_from(self.tracked.model, self.config, self.class_names))
            else:
                self.messages.extend(check_random_initialization(self.config))
            return ResumeState()
        if checkpoint.state["data"] != self.fingerprint:
            raise UserError(
                f"the training data differ from those of checkpoint {checkpoint.folder}; restore the data, or set "
                "option 'output' to another folder to start a new run"
            )
        self.checkpoints.restore(checkpoint, self.tracked)
        step = self._rescaled_step(checkpoint)
        has_model = (self.model_folder / WEIGHTS).is_file()
        # Pending: a run that was interrupted in its evaluation, a run that was shortened, or one whose model was lost.
        evaluation_pending = checkpoint.state.get("evaluation_pending", False) or (
            step >= self.total_steps and not has_model
        )
        self._report_changes(checkpoint, step, finished=step >= self.total_steps and not evaluation_pending)
        # If the model folder was lost, as on another machine, the next evaluation writes it again, whatever its AP.
        best_ap = checkpoint.state["best_AP"] if has_model else None
        return ResumeState(step, step if step == checkpoint.step else None, best_ap, evaluation_pending)

    def _rescaled_step(self, checkpoint: Checkpoint) -> int:
        """The checkpoint's step, or, if an epoch has another number of steps now, the step with as many images seen."""
        before = checkpoint.state.get("steps_per_epoch", self.steps_per_epoch)
        if before == self.steps_per_epoch:
            return checkpoint.step
        step = round(checkpoint.step * self.steps_per_epoch / before)
        optimizer = self.tracked.optimizer
        getattr(optimizer, "inner_optimizer", optimizer)._iterations.assign(step)
        self.messages.append(
            f"an epoch now has {self.steps_per_epoch} steps instead of {before}: step {checkpoint.step} became {step}"
        )
        return step

    def _report_changes(self, checkpoint: Checkpoint, step: int, finished: bool) -> None:
        changed = changed_options(checkpoint.state["config"], self.config)
        would_train_differently = [change for change in changed if not change.startswith(NOT_LEARNED_FROM)]
        if finished and would_train_differently:
            raise UserError(
                f"{checkpoint.folder} is the end of a finished run with other options "
                f"({', '.join(would_train_differently)}), so nothing would be trained; set option 'output' to another "
                "folder, or delete that run"
            )
        self.messages.append(
            f"resumed at step {step} of {self.total_steps}"
            + (f" with other options: {', '.join(changed)}" if changed else "")
        )
