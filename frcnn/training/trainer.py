"""The training loop.

Everything random is a function of (seed, step) or (seed, epoch, example), so the state of a run is its variables and
its step: a run that was stopped and resumed ends with the weights of one that was not. Several processes share every batch;
what they decide, they decide by numbers that are the same on all of them.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from frcnn.config import Config, save_config
from frcnn.data.batch import Batch
from frcnn.data.coco import Index
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import AgreedError, World
from frcnn.distributed.watchdog import Watchdog
from frcnn.errors import UserError
from frcnn.evaluation.coco import Metrics, evaluate_detections
from frcnn.evaluation.split import Stopped, detect_split, unreadable
from frcnn.evaluation.visualize import draw_comparisons
from frcnn.inference import Detections, Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.training.checkpoint import Checkpoints
from frcnn.training.folders import Folders
from frcnn.training.optimizer import AveragedWeights, build_optimizer, l2_penalty
from frcnn.training.progress import NullProgress, Progress
from frcnn.training.resume import ResumePoint, ResumeState
from frcnn.training.run_signature import facts
from frcnn.training.schedule import warmup_steps
from frcnn.training.shard import Shard, evenly_shared, load_splits
from frcnn.training.stop import StopRequest
from frcnn.weights.model_folder import write_model_folder

ALONE = World()


def train(
    config: Config, folders: Folders | None = None, world: World = ALONE, stop: StopRequest | None = None
) -> Path:
    """Train, evaluate and leave a model folder; resumes by itself where there are checkpoints.

    Args:
        folders: where what goes; by default all below ``config.output``.
        world: the processes that train together; rank 0 alone writes.
        stop: signals that are watched for already, where the caller does.

    Returns:
        The model folder: the best by validation AP, or the last without a validation split.

    Raises:
        UserError: the data, the configuration or a checkpoint cannot be used, or the loss became non-finite.
    """
    return Trainer(config, folders, world).run(stop)


class Trainer:
    """One run: data, model, optimiser and where they stand."""

    def __init__(self, config: Config, folders: Folders | None = None, world: World = ALONE) -> None:
        self.world = world
        world.init()
        self.watchdog = Watchdog(world, 60 * config.distributed.stall_minutes)
        self.notes: list[str] = []
        self.config = config = evenly_shared(config, world.size, self.notes)
        self.folders = folders or Folders.below(config.output)
        if config.training.deterministic:
            tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(config.seed)
        with world.raise_together():
            self.train_index, self.validation_index = load_splits(config, self.notes)
            if world.is_main:
                self.folders.make()
        world.check_consistent(facts(config, self.train_index, self.validation_index))
        self.shard = Shard.of(world, self.train_index, config)
        self.unreadable_images = UnreadableImages(self.train_index, config.data.max_bad_image_share, self.shard.images)
        self.bad_reads = self.bad_reads_checked = (
            0.0  # the ranks' counts together, in which an image may stand more than once
        )
        self.model = build_model(len(self.train_index.class_names), config)
        if config.distributed.sync_batch_norm and world.size > 1:
            self.model.synchronize_batch_norm(world.allreduce_sum)
        self.steps_per_epoch = self.shard.epoch_steps
        self.total_steps = max(1, round(config.training.epochs * self.steps_per_epoch))
        self.optimizer = build_optimizer(config, self.total_steps, self.model.trainable_variables)
        if (warmup := warmup_steps(config.optimizer, self.total_steps)) < config.optimizer.warmup_steps:
            self.notes.append(
                f"optimizer.warmup_steps={config.optimizer.warmup_steps} is more than a third of the run's {self.total_steps} steps: "
                f"the rate rises over {warmup}"
            )
        self.detector = Detector(self.model, config, self.train_index.class_names, self.train_index.category_ids)
        self.tracked = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
        self.checkpoints = Checkpoints(self.folders.checkpoints, config.training.keep_checkpoints, self.notes.append)
        self.step, self.saved_step, self.best_ap, self.evaluation_pending = self._begin()
        self.stop = StopRequest()
        self.stopping = False  # agreed: some rank got a signal

    def run(self, stop: StopRequest | None = None) -> Path:
        """Train to the end or to a signal, evaluating and saving on the way."""
        config = self.config
        batches = self.shard.batches(self.train_index, config, self.step, self.unreadable_images)
        saved = time.monotonic()
        with self._reporting() as progress, contextlib.nullcontext(stop) if stop else StopRequest() as self.stop:
            for note in self.notes:
                progress.note(note)
            while not self.stopping and not self.finished:
                if self.evaluation_pending:
                    self._evaluate(progress)
                    continue
                rate = self.optimizer.learning_rate  # of the step that is about to be taken
                progress.step(self.step + 1, self._train_on(next(batches)), rate)
                self.evaluation_pending = self._evaluation_is_due()
                self._check_images(progress)
                # An evaluation takes long, and who stops a run may not wait for its end.
                if self.evaluation_pending or time.monotonic() - saved > 60 * config.training.checkpoint_minutes:
                    self._save(progress)
                    saved = time.monotonic()
            if not self.finished:
                if self.saved_step != self.step:
                    self._save(progress)
                cause = self.stop.received.name if self.stop.received else "a signal to another rank"
                progress.note(
                    f"{cause}: saved step {self.step} of {self.total_steps}; the same command goes on from there"
                )
        self.watchdog.end()
        return self.folders.model

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: all steps, and the evaluation after the last."""
        return self.step >= self.total_steps and not self.evaluation_pending

    def _reporting(self) -> Progress | NullProgress:
        """Rank 0's reports, with what was configured written beside them; the other ranks' silence."""
        if not self.world.is_main:
            return NullProgress()
        training = self.config.training
        self.folders.output.mkdir(parents=True, exist_ok=True)
        save_config(self.config, self.folders.output / "config.yaml")
        return Progress(self.folders.output, self.total_steps, training.batch_size, self.step, training.log_every)

    def _begin(self) -> ResumeState:
        """Rank 0's starting point, which alone reads checkpoints and weights: every rank's folder may hold others, or none."""
        beginning = ResumePoint(
            self.config, self.checkpoints, self.tracked, self.train_index.class_names, self.shard.fingerprint, self.steps_per_epoch,
            self.total_steps, self.folders.model, self.notes,
        )  # fmt: skip
        start = ResumeState()
        with self.world.raise_together():
            if self.world.is_main:
                start = beginning.find()
        start = ResumeState(*self.world.broadcast_object(start))
        self.world.broadcast([*self.model.variables, *self.optimizer.variables])
        return start

    def _train_on(self, batch: Batch) -> dict[str, float]:
        """One step; returns the losses, their sum ``loss`` and the gradient's norm.

        Raises:
            AgreedError: the sum or the norm is not finite; the step was not applied and nothing is saved.
        """
        self.watchdog.tick(self.step)
        flags = [float(self.stop.received is not None), float(len(self.unreadable_images))]
        try:
            *values, stopping, self.bad_reads = (
                self._step(batch, tf.constant(self.step), tf.constant(flags)).numpy().tolist()
            )
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(
                f"memory ran out at step {self.step} with {batch.images.shape[0]} images of {batch.images.shape[1]} x "
                f"{batch.images.shape[2]} pixels in this process ({str(error).splitlines()[0]}); lower training.batch_size "
                "(optimizer.accumulation keeps what a step learns from), image.max_size or, on a GPU, set training.precision=mixed_float16"
            ) from None
        self.stopping = stopping > 0
        losses = dict(zip((*LOSSES, "loss", "gradient_norm"), values, strict=True))
        if not (math.isfinite(losses["loss"]) and (self._scales_loss or math.isfinite(losses["gradient_norm"]))):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            images = [int(number) for (ids,) in self.world.allgather([batch.image_ids.numpy()]) for number in ids]
            raise AgreedError(
                f"loss or gradient not finite at step {self.step} ({shown}), images {images}; "
                "nothing was overwritten. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps or set optimizer.clip_norm, "
                "and run the same command"
            )
        self.step += 1
        return losses

    @tf.function
    def _step(self, batch: Batch, step: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        """Forward, backward, update; what is not finite changes no weight.

        Returns ``LOSSES``, their sum and the gradient's norm, means over the ranks; then ``flags``, summed over the ranks.
        """
        world = self.world
        variables = self.model.trainable_variables
        seed = tf.stack([self.config.seed, step])
        with tf.GradientTape() as tape:
            losses = self.model.losses_of(batch, seed, first_image=world.rank * batch.images.shape[0])
            total = tf.add_n([losses[name] for name in LOSSES])
            objective = total + l2_penalty(variables, self.config.optimizer)
            scaled = self.optimizer.scale_loss(objective)
        gradients = world.average_gradients(tape.gradient(scaled, variables), self.config.distributed.compression)
        reported = tf.stack([*(losses[name] for name in LOSSES), total]) / world.size
        *means, stopping, bad_reads = tf.unstack(world.allreduce_sum(tf.concat([reported, flags], axis=0), "report"))
        total = means[-1]
        norm = tf.linalg.global_norm(gradients) * (objective / scaled)
        # With loss scaling a gradient that overflows is everyday: the optimiser skips it and lowers its scale.
        finite = tf.math.is_finite(total) if self._scales_loss else tf.math.is_finite(total) & tf.math.is_finite(norm)
        tf.cond(finite, lambda: self._apply(gradients), lambda: None)
        return tf.stack([*means, norm, stopping, bad_reads])

    @property
    def _scales_loss(self) -> bool:
        return self.config.training.precision == "mixed_float16"

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self.model.trainable_variables)

    def _check_images(self, progress: Progress | NullProgress) -> None:
        """End the run, saved, where more images than allowed could not be read, counting every image once whoever read it."""
        if self.bad_reads <= self.bad_reads_checked:
            return
        self.bad_reads_checked = self.bad_reads
        try:
            self.unreadable_images.check(unreadable(self.unreadable_images, self.world))
        except UserError as error:
            self._save(progress)
            raise AgreedError(str(error)) from None

    def _evaluation_is_due(self) -> bool:
        if self.step == self.total_steps:
            return True
        every = self.config.training.evaluate_every
        return every is not None and self.step % max(1, round(every * self.steps_per_epoch)) == 0

    def _evaluate(self, progress: Progress | NullProgress) -> None:
        """Measure the validation split with the averaged weights, and keep the model if it is the best so far.

        A signal on the way leaves it to the run that goes on.
        """
        with AveragedWeights(self.optimizer, self.model.trainable_variables):
            if self.validation_index is None:
                self._write_model({"step": self.step})
            else:
                unreadable_images = UnreadableImages(self.validation_index, self.config.data.max_bad_image_share)
                try:
                    results = self._detect(self.validation_index, unreadable_images)
                except Stopped:
                    self.stopping = True
                    return
                unread = unreadable(unreadable_images, self.world)
                with self.world.raise_together():
                    unreadable_images.check(unread)
                unread |= unreadable(self.unreadable_images, self.world)
                if self.world.is_main:
                    self._measure(self.validation_index, results, len(unread), progress)
        self.evaluation_pending = False
        self._save(progress)

    def _measure(
        self, index: Index, results: dict[int, Detections], unread: int, progress: Progress | NullProgress
    ) -> None:
        metrics = evaluate_detections(index, results, lambda *_: self.watchdog.tick())
        progress.evaluation(self.step, {**metrics.to_json(), "unreadable_images": unread})
        first, folder = index.images[:PICTURES], self.folders.output / "pictures"
        progress.pictures(self.step, "validation", draw_comparisons(first, results, self.detector.class_names, folder))
        if self.best_ap is None or _ap(metrics) >= self.best_ap:
            self.best_ap = _ap(metrics)
            self._write_model({**metrics.to_json(), "split": "validation", "step": self.step})

    def _detect(self, index: Index, unreadable_images: UnreadableImages) -> dict[int, Detections]:
        """Detections of every image, with rank 0's statistics where batch norm keeps its own on each rank.

        Raises:
            Stopped: some rank got a signal.
        """
        world = self.world
        world.broadcast(self.model.non_trainable_variables)
        # A GPU takes as many at a time as it trains with; a CPU is busy with one.
        at_once = self.config.training.batch_size // world.size if tf.config.list_physical_devices("GPU") else 1
        return detect_split(
            self.detector,
            index,
            world,
            unreadable_images,
            at_once,
            lambda *_: self.watchdog.tick(),
            lambda: self.stop.received is not None,
        )

    def _write_model(self, metrics: dict[str, Any]) -> None:
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
        metrics = {**metrics, "train_data": self.shard.fingerprint, "versions": versions}
        index = self.train_index
        if not self.world.is_main:
            return
        for folder in self.folders.models:
            write_model_folder(folder, self.model, self.config, index.class_names, index.category_ids, metrics)

    def _save(self, progress: Progress | NullProgress) -> None:
        if not self.world.is_main:
            return
        state = {
            "best_AP": self.best_ap,
            "evaluation_pending": self.evaluation_pending,
            "data": self.shard.fingerprint,
            "steps_per_epoch": self.steps_per_epoch,
            "config": self.config.model_dump(mode="json"),
        }
        if self.saved_step == self.step:
            self.checkpoints.restate(self.step, state)
        else:
            self.checkpoints.save(self.tracked, self.step, state)
            self.saved_step = self.step
            progress.checkpoint(self.step)
        self.folders.keep_history()


PICTURES = 8  # drawn at each evaluation
LOSSES = ("rpn_objectness", "rpn_box", "roi_class", "roi_box")


def _ap(metrics: Metrics) -> float:
    ap = metrics.summary["AP"]
    return 0.0 if math.isnan(ap) else ap
