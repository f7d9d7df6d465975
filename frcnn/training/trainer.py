"""The training loop.

Everything random is a function of (seed, step) or (seed, epoch, example), so the state of a run is its variables and
its step: a run that was stopped and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from frcnn.config import Config, changed_options, save_config
from frcnn.data.batch import Batch
from frcnn.data.coco import Index, check_same_classes, find_channel, load_index
from frcnn.data.decode import decode_image
from frcnn.data.pipeline import BadImages, steps_per_epoch, training_batches
from frcnn.errors import UserError
from frcnn.evaluation.coco import Metrics, evaluate_detections
from frcnn.evaluation.visualize import draw_comparison
from frcnn.inference import Detections, Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.training.checkpoint import Checkpoints
from frcnn.training.folders import Folders
from frcnn.training.optimizer import AveragedWeights, build_optimizer, l2_penalty
from frcnn.training.progress import Progress
from frcnn.training.stop import StopRequest
from frcnn.weights.model_folder import WEIGHTS, write_model_folder
from frcnn.weights.starting_point import start_from


def train(config: Config, folders: Folders | None = None) -> Path:
    """Train, evaluate and leave a model folder; resumes by itself where there are checkpoints.

    Args:
        folders: where what goes; by default all below ``config.output``.

    Returns:
        The model folder: the best by validation AP, or the last without a validation split.

    Raises:
        UserError: the data, the configuration or a checkpoint cannot be used, or the loss became non-finite.
    """
    return Trainer(config, folders).run()


class Trainer:
    """One run: data, model, optimiser and where they stand."""

    def __init__(self, config: Config, folders: Folders | None = None) -> None:
        self.config = config
        self.folders = folders or Folders.below(config.output)
        if config.training.deterministic:
            tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(config.seed)
        self.train_index, self.validation_index = _load_data(config)
        self.bad_images = BadImages(self.train_index, config.data.max_bad_image_share)
        self.model = build_model(len(self.train_index.class_names), config)
        self.steps_per_epoch = steps_per_epoch(self.train_index, config)
        self.total_steps = max(1, round(config.training.epochs * self.steps_per_epoch))
        self.optimizer = build_optimizer(config, self.total_steps, self.model.trainable_variables)
        self.detector = Detector(self.model, config, self.train_index.class_names, self.train_index.category_ids)
        self.tracked = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
        self.notes: list[str] = []
        self.checkpoints = Checkpoints(self.folders.checkpoints, config.training.keep_checkpoints, self.notes.append)
        self.step, self.best_ap = self._starting_point()

    def run(self) -> Path:
        """Train to the end or to a signal, evaluating and saving on the way."""
        config = self.config
        output = self.folders.output
        output.mkdir(parents=True, exist_ok=True)
        save_config(config, output / "config.yaml")
        batches = iter(training_batches(self.train_index, config, start_step=self.step, bad_images=self.bad_images))
        saved = time.monotonic()
        with (
            Progress(output, self.total_steps, config.training.batch_size, self.step, config.training.log_every) as progress,
            StopRequest() as stop,
        ):
            for note in self.notes:
                progress.note(note)
            while self.step < self.total_steps and not stop.received:
                losses = self._train_on(next(batches))
                progress.step(self.step, losses, float(self.optimizer.learning_rate))
                self._check_images()
                due = self._evaluation_is_due()
                if due:
                    self._evaluate(progress)
                if due or time.monotonic() - saved > 60 * config.training.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
            if stop.received and self.step < self.total_steps:
                self._save()
                progress.note(f"{stop.received.name}: saved step {self.step} of {self.total_steps}; the same command goes on from there")
        return self.folders.model

    def _starting_point(self) -> tuple[int, float | None]:
        """Step and best AP of the newest checkpoint, its variables restored; else 0, with ``config.weights`` where given."""
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            if self.config.weights:
                self.notes += start_from(self.model, self.config, self.train_index.class_names)
            return 0, None
        if checkpoint.state["data"] != self.train_index.fingerprint:
            raise UserError(
                f"the training data differ from those that {checkpoint.folder} was trained on; "
                "bring the data back, or choose another output folder to start afresh"
            )
        self.checkpoints.restore(checkpoint, self.tracked)
        changed = changed_options(checkpoint.state["config"], self.config)
        self.notes.append(
            f"resumed at step {checkpoint.step} of {self.total_steps}" + (f" with other options: {', '.join(changed)}" if changed else "")
        )
        # A model folder that was lost, as on another machine, is written again by the next evaluation, whatever its AP.
        return checkpoint.step, checkpoint.state["best_AP"] if (self.folders.model / WEIGHTS).is_file() else None

    def _train_on(self, batch: Batch) -> dict[str, float]:
        """One step; returns the losses, their sum ``loss`` and the gradient's norm.

        Raises:
            UserError: the sum or the norm is not finite; the step was not applied and nothing is saved.
        """
        values = self._step(batch, tf.constant(self.step))
        losses = dict(zip((*LOSSES, "loss", "gradient_norm"), values.numpy().tolist(), strict=True))
        if not (math.isfinite(losses["loss"]) and (self._scales_loss or math.isfinite(losses["gradient_norm"]))):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            raise UserError(
                f"loss or gradient not finite at step {self.step} ({shown}), images {batch.image_ids.numpy().tolist()}; "
                "nothing was overwritten. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps or set optimizer.clip_norm, "
                "and run the same command"
            )
        self.step += 1
        return losses

    @tf.function
    def _step(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        """Forward, backward, update; what is not finite changes no weight. Returns ``LOSSES``, their sum, the gradient's norm."""
        variables = self.model.trainable_variables
        seed = tf.stack([self.config.seed, step])
        with tf.GradientTape() as tape:
            losses = self.model.losses_of(batch, seed)
            total = tf.add_n([losses[name] for name in LOSSES])
            objective = total + l2_penalty(variables, self.config.optimizer)
            scaled = self.optimizer.scale_loss(objective)
        gradients = tape.gradient(scaled, variables)
        norm = tf.linalg.global_norm(gradients) * (objective / scaled)
        # With loss scaling a gradient that overflows is everyday: the optimiser skips it and lowers its scale.
        finite = tf.math.is_finite(total) if self._scales_loss else tf.math.is_finite(total) & tf.math.is_finite(norm)
        tf.cond(finite, lambda: self._apply(gradients), lambda: None)
        return tf.stack([*(losses[name] for name in LOSSES), total, norm])

    @property
    def _scales_loss(self) -> bool:
        return self.config.training.precision == "mixed_float16"

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self.model.trainable_variables)

    def _check_images(self) -> None:
        """End the run, saved, where more images than allowed could not be read."""
        try:
            self.bad_images.check()
        except UserError:
            self._save()
            raise

    def _evaluation_is_due(self) -> bool:
        if self.step == self.total_steps:
            return True
        every = self.config.training.evaluate_every
        return every is not None and self.step % max(1, round(every * self.steps_per_epoch)) == 0

    def _evaluate(self, progress: Progress) -> None:
        """Measure the validation split with the averaged weights, and keep the model if it is the best so far."""
        with AveragedWeights(self.optimizer, self.model.trainable_variables):
            if self.validation_index is None:
                self._write_model({"step": self.step})
                return
            results = self.detector.detect_index(self.validation_index)
            metrics = evaluate_detections(self.validation_index, results)
            progress.evaluation(self.step, {**metrics.to_json(), "unreadable_images": len(self.bad_images)})
            self._draw(progress, self.validation_index, results)
            if self.best_ap is None or _ap(metrics) >= self.best_ap:
                self.best_ap = _ap(metrics)
                self._write_model({**metrics.to_json(), "split": "validation", "step": self.step})

    def _draw(self, progress: Progress, index: Index, results: dict[int, Detections]) -> None:
        """Annotated beside detected, for the first pictures of the validation split."""
        folder = self.folders.output / "pictures"
        folder.mkdir(exist_ok=True)
        sheets = []
        for record in index.images[:PICTURES]:
            sheet = draw_comparison(decode_image(record.path), record, results[record.image_id], self.detector.class_names)
            sheet.save(folder / f"validation_{record.image_id}.jpg")
            sheets.append(np.asarray(sheet))
        progress.pictures(self.step, "validation", sheets)

    def _write_model(self, metrics: dict[str, Any]) -> None:
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
        metrics = {**metrics, "train_data": self.train_index.fingerprint, "versions": versions}
        index = self.train_index
        for folder in self.folders.models:
            write_model_folder(folder, self.model, self.config, index.class_names, index.category_ids, metrics)

    def _save(self) -> None:
        state = {"best_AP": self.best_ap, "data": self.train_index.fingerprint, "config": self.config.model_dump(mode="json")}
        self.checkpoints.save(self.tracked, self.step, state)


PICTURES = 8  # drawn at each evaluation
LOSSES = ("rpn_objectness", "rpn_box", "roi_class", "roi_box")


def _load_data(config: Config) -> tuple[Index, Index | None]:
    """Training and validation index; the latter is None where neither the config nor the folder names one."""
    train_index = load_index(*find_channel(config.data, "train"), config.data.on_bad_annotation)
    try:
        channel = find_channel(config.data, "validation")
    except UserError:
        if config.data.validation.annotations:
            raise
        return train_index, None
    return train_index, check_same_classes(train_index, load_index(*channel, config.data.on_bad_annotation))


def _ap(metrics: Metrics) -> float:
    ap = metrics.summary["AP"]
    return 0.0 if math.isnan(ap) else ap
