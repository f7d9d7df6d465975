"""Where a run begins: at its newest checkpoint, with given weights, or at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from frcnn.config import Config, changed_options
from frcnn.errors import UserError
from frcnn.training.checkpoint import Checkpoint, Checkpoints
from frcnn.weights.initial_weights import at_random, start_from
from frcnn.weights.model_folder import WEIGHTS

# Beginnings of options that decide where things lie, how long a run goes on and what it reports, not what is learnt.
NOT_LEARNT_FROM = (
    *(
        "output",
        "data.root",
        "data.train.",
        "data.validation.",
        "data.workers",
        "data.max_bad_image_share",
        "ops.",
        "distributed.",
    ),
    *(
        "training.epochs",
        "training.evaluate_every",
        "training.checkpoint_minutes",
        "training.keep_checkpoints",
        "training.log_every",
    ),
)


class ResumeState(NamedTuple):
    """What is known of the run so far.

    Attributes:
        step: steps taken.
        saved_step: that of the checkpoint whose variables are these, if one is.
        best_ap: of the model in the model folder; None where there is none yet.
        evaluation_pending: the step is still to be evaluated.
    """

    step: int = 0
    saved_step: int | None = None
    best_ap: float | None = None
    evaluation_pending: bool = False


@dataclass(frozen=True)
class ResumePoint:
    """What decides where a run begins.

    Attributes:
        tracked: ``model`` and ``optimizer``, whose variables are set.
        class_names: of the labels 1..K.
        fingerprint: of the training data.
        notes: gets what the user should know.
    """

    config: Config
    checkpoints: Checkpoints
    tracked: tf.train.Checkpoint
    class_names: Sequence[str]
    fingerprint: str
    steps_per_epoch: int
    total_steps: int
    model_folder: Path
    notes: list[str]

    def find(self) -> ResumeState:
        """Set the variables as the newest checkpoint has them; without one as ``config.weights`` has, or at random.

        Raises:
            UserError: checkpoint or weights cannot be used, or the run is finished and was another one.
        """
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            if self.config.weights:
                self.notes.extend(start_from(self.tracked.model, self.config, self.class_names))
            else:
                self.notes.extend(at_random(self.config))
            return ResumeState()
        if checkpoint.state["data"] != self.fingerprint:
            raise UserError(
                f"the training data differ from those that {checkpoint.folder} was trained on; "
                "bring the data back, or choose another output folder to start afresh"
            )
        self.checkpoints.restore(checkpoint, self.tracked)
        step = self._same_epoch(checkpoint)
        has_model = (self.model_folder / WEIGHTS).is_file()
        # A run that was broken off in its evaluation; one that others made shorter, or whose model was lost.
        evaluation_pending = checkpoint.state.get("evaluation_pending", False) or (
            step >= self.total_steps and not has_model
        )
        self._tell(checkpoint, step, finished=step >= self.total_steps and not evaluation_pending)
        # A model folder that was lost, as on another machine, is written again by the next evaluation, whatever its AP.
        best_ap = checkpoint.state["best_AP"] if has_model else None
        return ResumeState(step, step if step == checkpoint.step else None, best_ap, evaluation_pending)

    def _same_epoch(self, checkpoint: Checkpoint) -> int:
        """The checkpoint's step; where an epoch has another number of steps now, the step at which as many images have been seen."""
        before = checkpoint.state.get("steps_per_epoch", self.steps_per_epoch)
        if before == self.steps_per_epoch:
            return checkpoint.step
        step = round(checkpoint.step * self.steps_per_epoch / before)
        optimizer = self.tracked.optimizer
        getattr(optimizer, "inner_optimizer", optimizer)._iterations.assign(step)
        self.notes.append(
            f"an epoch has {self.steps_per_epoch} steps instead of {before}: step {checkpoint.step} became {step}"
        )
        return step

    def _tell(self, checkpoint: Checkpoint, step: int, finished: bool) -> None:
        changed = changed_options(checkpoint.state["config"], self.config)
        learnt_otherwise = [change for change in changed if not change.startswith(NOT_LEARNT_FROM)]
        if finished and learnt_otherwise:
            raise UserError(
                f"{checkpoint.folder} is the end of a run with other options: {', '.join(learnt_otherwise)}; nothing would be trained. "
                "Choose another output folder (option 'output'), or delete that run"
            )
        self.notes.append(
            f"resumed at step {step} of {self.total_steps}"
            + (f" with other options: {', '.join(changed)}" if changed else "")
        )
