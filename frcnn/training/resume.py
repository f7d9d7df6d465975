"""Where a run starts: at its newest checkpoint, from given weights, or from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from frcnn.config import Config, changed_options
from frcnn.errors import UserError
from frcnn.training.best_model import Best
from frcnn.training.checkpoint import Checkpoint, Checkpoints
from frcnn.training.run_state import ResumeState, model_problem, repair_other_files, restore_model
from frcnn.weights.initial_weights import check_random_initialization, start_from
from frcnn.weights.model_files import WEIGHTS
from frcnn.weights.model_folder import load_weights

# Prefixes of options that do not change what is learned: places of files, length of the run, reports.
NOT_LEARNED_FROM = (
    "output",
    "data.root",
    "tracking.",
    "data.train.",
    "data.validation.",
    "data.validation_fraction",
    "data.workers",
    "data.max_bad_image_share",
    "ops.",
    "test.",
    "distributed.",
    "training.epochs",
    "training.evaluate_every",
    "training.best_metric",
    "training.patience",
    "training.min_delta",
    "training.max_minutes",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "training.log_every",
    "training.deterministic",
    "training.tf32",
)


@dataclass(frozen=True)
class RunStart:
    """Everything that decides where a run starts.

    Attributes:
        tracked: ``model`` and ``optimizer``, whose variables are set.
        class_names: of the labels 1..K.
        fingerprint: of the training data.
        validation_fingerprint: of the validation data; None without a validation split.
        model_folders: the model folder and its copies.
        messages: gets what the user should know.
    """

    config: Config
    checkpoints: Checkpoints
    tracked: tf.train.Checkpoint
    class_names: Sequence[str]
    fingerprint: str
    validation_fingerprint: str | None
    steps_per_epoch: int
    total_steps: int
    model_folders: tuple[Path, ...]
    messages: list[str]

    def identity(self) -> dict[str, Any]:
        """The part of a checkpoint's state by which a resumed run recognizes its data, classes and options."""
        return {
            "data": self.fingerprint,
            "validation_data": self.validation_fingerprint,
            "class_names": list(self.class_names),
            "steps_per_epoch": self.steps_per_epoch,
            "config": self.config.model_dump(mode="json"),
        }

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
            return ResumeState(best=Best(self.config.training.best_metric))
        if checkpoint.state["data"] != self.fingerprint:
            raise UserError(
                f"the training data differ from those of checkpoint {checkpoint.folder}; restore the data, or set "
                "option 'output' to another folder to start a new run"
            )
        if self.checkpoints.lacks_variables(checkpoint, self.tracked):
            self._load_not_trained(checkpoint)
        self.checkpoints.restore(checkpoint, self.tracked)
        step = self._rescaled_step(checkpoint)
        best, keeps_model = self._comparable_best(checkpoint)
        # The evaluation is pending if the run was interrupted in it, if the run was shortened to this step, or if a
        # finished run has no valid model.
        ended_at, limit = checkpoint.state.get("ended_at_minutes"), self.config.training.max_minutes
        out_of_time = ended_at is not None and limit is not None and limit <= ended_at
        done = step >= self.total_steps or out_of_time or best.exhausted(self.config.training)
        evaluation_pending = checkpoint.state.get("evaluation_pending", False) or (done and not keeps_model)
        self._report_changes(checkpoint, step, finished=done and not evaluation_pending)
        return ResumeState(
            step,
            step if step == checkpoint.step else None,
            best,
            evaluation_pending,
            checkpoint.state.get("model_sha256", {}),
            checkpoint.state.get("seconds", 0.0),
            out_of_time,
        )

    def _load_not_trained(self, checkpoint: Checkpoint) -> None:
        """Load what a checkpoint of an earlier version lacks, frozen weights and the statistics of batch norms.

        The last model of the run has the same frozen weights, and about the same statistics.
        """
        source = self.config.weights
        try:
            load_weights(self.tracked.model, self.model_folders[0] / WEIGHTS)
            source = self.model_folders[0]
        except UserError:  # no model yet, or a damaged one
            if source:
                start_from(self.tracked.model, self.config, self.class_names)
        if source:
            self.messages.append(
                f"warning: checkpoint {checkpoint.folder} of an earlier version lacks the frozen weights and the "
                f"statistics of batch norms; those of {source} are used"
            )

    def _comparable_best(self, checkpoint: Checkpoint) -> tuple[Best, bool]:
        """The best so far, as far as the next evaluation compares with it, and whether the model folder is kept.

        A damaged folder is restored from a copy. If none is intact or its value is not comparable, the next evaluation
        writes the folder.
        """
        state = checkpoint.state
        folder, *copies = self.model_folders
        hashes = state.get("model_sha256", {})
        best, wanted = Best.from_state(state), self.config.training.best_metric
        changed = []
        if state.get("validation_data", self.validation_fingerprint) != self.validation_fingerprint:
            changed.append("the validation data changed")
        if best.metric != wanted:
            changed.append(f"training.best_metric was {best.metric} and is {wanted}")
        if changed and best.value is not None:
            self.messages.append(
                f"{' and '.join(changed)}, so the best {best.metric} so far ({best.value:.4f}) is not comparable and "
                "is forgotten; the next evaluation writes its model"
            )
            return Best(wanted), False
        if problem := model_problem(folder, hashes):
            copy = restore_model(folder, copies, hashes)
            if hashes:
                remedy = f"it is restored from {copy}" if copy else "the next evaluation writes it again"
                self.messages.append(f"warning: model folder {folder} is damaged ({problem}); {remedy}")
            if copy is None:
                return best._replace(metric=wanted, value=None, ap=None), False
        elif hashes and (repaired := repair_other_files(folder, copies, hashes)):
            self.messages.append(f"warning: {repaired}")
        return best._replace(metric=wanted), True

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
