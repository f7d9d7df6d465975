"""The training loop.

Everything random is a function of (seed, step) or (seed, epoch, image), so the state of a run is its variables and its
step: a run that was stopped and resumed ends with the weights of an uninterrupted one. Several processes (ranks) share
every batch. They stay in step because every decision (stop, evaluate, fail) is made from values that are the same on
all ranks.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import keras

from frcnn.atomic import remove_incomplete
from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import AgreedError, World
from frcnn.distributed.watchdog import Watchdog
from frcnn.errors import UserError
from frcnn.evaluation.split import Stopped, unreadable
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.ops import describe_kernels
from frcnn.training.best_model import Best, check_best_metric
from frcnn.training.checkpoint import Checkpoints, track_variables
from frcnn.training.disk_space import bytes_of, check_disk_space
from frcnn.training.folders import Folders
from frcnn.training.lock import RunLock
from frcnn.training.null_progress import NullProgress
from frcnn.training.numerics import configure_numerics
from frcnn.training.optimizer import AveragedWeights, build_optimizer, short_run_messages
from frcnn.training.progress import Progress
from frcnn.training.reports import StepReports
from frcnn.training.resume import RunStart
from frcnn.training.run_signature import run_signature
from frcnn.training.run_state import ResumeState, check_state
from frcnn.training.shard import Shard, load_splits, round_batch_size
from frcnn.training.step import build_train_step
from frcnn.training.stop import StopRequest
from frcnn.training.time_limit import TimeLimit
from frcnn.training.tracking.open import check_tracking, open_progress
from frcnn.training.validation import Validation


class Trainer:
    """One run: data, model, optimizer and their progress; resumes from the newest checkpoint if there is one.

    Args:
        folders: where files are written; by default all below ``config.output``.
        world: the processes that train together, by default this one alone; only rank 0 writes.

    Attributes:
        messages: what the user should know before the first step; printed by :meth:`run`.
        step: optimizer steps taken.
        best: the best evaluation so far; the same on all ranks.
        evaluation_pending: the variables of this step are still to be evaluated.
        out_of_time: ``training.max_minutes`` are over; the same on all ranks.
        stopping: some rank got a signal; the same on all ranks.
    """

    def __init__(self, config: Config, folders: Folders | None = None, world: World | None = None) -> None:
        self.world = world = world or World()
        world.init()
        self.watchdog = Watchdog(world, 60 * config.distributed.stall_minutes)
        self.messages: list[str] = []
        self.config = config = round_batch_size(config, world.size, self.messages)
        self.folders = folders or Folders.below(config.output)
        self.lock: RunLock | None = None
        self.messages.append(configure_numerics(config))
        self.messages.append(describe_kernels(config.ops.kernel))
        keras.utils.set_random_seed(config.seed)
        with world.raise_together():
            check_tracking(config)
            splits = load_splits(config, self.messages, compare_files=world.is_main)
            self.train_index, self.validation_index = splits
            check_best_metric(config.training, self.train_index.class_names, self.validation_index is not None)
            if world.is_main:
                self.folders.make()
                self.lock = RunLock.acquire(self.folders.output)
                remove_incomplete(self.folders.output)
        world.check_consistent(run_signature(config, self.train_index, self.validation_index))
        self.shard = Shard.of(world, self.train_index, config)
        self.unreadable_images = UnreadableImages(self.train_index, config.data.max_bad_image_share, self.shard.images)
        # Failed reads of all ranks; an image that several of them read counts several times, see _check_images.
        self.bad_reads = self.bad_reads_checked = 0.0
        self.model = build_model(len(self.train_index.class_names), config)
        if world.size > 1:
            self.model.synchronize(world.allreduce_sum)
        self.steps_per_epoch = self.shard.epoch_steps
        self.total_steps = max(1, round(config.training.epochs * self.steps_per_epoch))
        self.optimizer = build_optimizer(config, self.total_steps, self.model.trainable_variables)
        self.messages += short_run_messages(config.optimizer, self.total_steps)
        self.train_step = build_train_step(self.model, self.optimizer, config, world)
        self.reports = StepReports(self.train_step, config, world)
        self.detector = Detector(self.model, config, self.train_index.class_names, self.train_index.category_ids)
        self.tracked = track_variables(self.model, self.optimizer)
        self.progress: Progress | NullProgress | None = None
        size = bytes_of([*self.model.variables, *self.optimizer.variables])
        self.checkpoints = Checkpoints(
            self.folders.checkpoints, config.training.keep_checkpoints, self._report, check_state, size
        )
        state = self._restore_or_initialize()
        self.step, self.saved_step, self.best, self.evaluation_pending, model_sha256, used, self.out_of_time = state
        images = len(self.validation_index.images) if self.validation_index else 0
        self.time_limit = TimeLimit(config.training.max_minutes, used, images, 2 if config.optimizer.ema else 1)
        self.saved_at = time.monotonic()
        self.stop = StopRequest()
        self.stopping = False
        self.validation = Validation(
            self.detector,
            self.validation_index,
            config,
            self.folders,
            world,
            self.watchdog,
            self.shard.fingerprint,
            {"train": self.train_index.summary.to_json()},
            self.time_limit,
            stopped=lambda: self.stop.received is not None,
        )
        self.validation.model_sha256 = model_sha256

    def run(self, stop: StopRequest | None = None) -> Path:
        """Train to the end or to a signal, with evaluations and checkpoints.

        Args:
            stop: an entered :class:`StopRequest`, if the caller already watches for signals.

        Returns:
            The model folder: the best model by ``training.best_metric``, or the last one without a validation split.
        """
        batches = self.shard.batches(self.train_index, self.config, self.step, self.unreadable_images)
        with (
            self.lock or contextlib.nullcontext(),
            self._open_progress() as progress,
            contextlib.nullcontext(stop) if stop else StopRequest() as self.stop,
        ):
            self.progress = progress
            for message in self.messages:
                progress.message(message)
            while not self.stopping and not self.finished:
                if self.evaluation_pending:
                    self.stop.work_begins()
                    self._evaluate(progress)
                    continue
                self._start_step(next(batches), progress)
                self.evaluation_pending = self._evaluation_is_due(self.step)
                checkpoint_due = self._read_reports(progress, all_steps=self.evaluation_pending)
                # Checkpoint before evaluating: the user may not wait for the evaluation to finish.
                if self.evaluation_pending or checkpoint_due:
                    self._read_reports(progress, all_steps=True)
                    self._save(progress)
            self._read_reports(progress, all_steps=True)
            if self.finished:
                self.validation.report(progress)
            else:
                if self.saved_step != self.step:
                    self._save(progress)
                progress.message(self.stop.describe(self.step, self.total_steps))
        self.watchdog.end()
        # A rank that exits with another code than 0 makes mpirun kill the others: not before rank 0 has saved.
        self.world.barrier()
        return self.folders.model

    @property
    def finished(self) -> bool:
        """Whether training has ended, after all steps or early, and the evaluation after the last step is done."""
        ended_early = self.out_of_time or self.best.exhausted(self.config.training)
        return (self.step >= self.total_steps or ended_early) and not self.evaluation_pending

    def _report(self, text: str) -> None:
        """Print a message, or keep it for the start of :meth:`run`."""
        if self.progress:
            self.progress.message(text)
        else:
            self.messages.append(text)

    def _open_progress(self) -> Progress | NullProgress:
        if not self.world.is_main:
            return NullProgress()
        steps = self.total_steps, self.step
        return open_progress(self.config, self.folders, *steps, self.time_limit.left, lambda: self.finished)

    def _restore_or_initialize(self) -> ResumeState:
        """The state of rank 0, broadcast to all: the folders of other ranks may hold other checkpoints, or none."""
        self.start = RunStart(
            self.config,
            self.checkpoints,
            self.tracked,
            self.train_index.class_names,
            self.shard.fingerprint,
            self.validation_index.fingerprint if self.validation_index else None,
            self.steps_per_epoch,
            self.total_steps,
            self.folders.models,
            self.messages,
        )
        state = ResumeState()
        with self.world.raise_together():
            if self.world.is_main:
                state = self.start.restore_or_initialize()
                keep = self.config.training.keep_checkpoints
                check_disk_space(self.folders, self.model.variables, self.optimizer.variables, keep)
        state = ResumeState(*self.world.broadcast_object(state))
        state = state._replace(best=Best(*state.best))
        self.world.broadcast([*self.model.variables, *self.model.training_state, *self.optimizer.variables])
        return state

    def _start_step(self, batch: Batch, progress: Progress | NullProgress) -> None:
        """Start one step; :meth:`_read_reports` processes its outcome."""
        self.watchdog.tick(self.step)
        # Before the step, which changes it, and only where it is recorded: reading a variable waits for the device.
        rate = self.optimizer.learning_rate if progress.is_due(self.step + 1) else None
        progress.status(self.reports.compiling(batch))
        overdue = time.monotonic() - self.saved_at > 60 * self.config.training.checkpoint_minutes
        evaluates = self.step + 1 < self.total_steps and self._evaluation_is_due(self.step + 1)
        out_of_time = self.time_limit.reached(self.config.training.batch_size, evaluates)
        on_main = (self.world.is_main and overdue, self.world.is_main and out_of_time)
        flags = (self.stop.received is not None, len(self.unreadable_images), *on_main)
        self.reports.start(batch, self.step, flags, rate)
        self.step += 1

    def _read_reports(self, progress: Progress | NullProgress, all_steps: bool) -> bool:
        """Process the reports of finished steps; returns whether rank 0 wants to save a checkpoint.

        All ranks read the same reports at the same time, so that they decide the same after the same step.
        """
        checkpoint_due = False
        for report in self.reports.read(all_steps):
            progress.step(report.step, report.losses, report.learning_rate)
            self.stop.work_begins()
            stopping, self.bad_reads, overdue, out_of_time = report.flags
            self.stopping |= stopping > 0
            checkpoint_due |= overdue > 0
            if out_of_time > 0 and not self.out_of_time:
                self.out_of_time = self.evaluation_pending = True
                progress.message(self.time_limit.describe(self.step, self.total_steps))
        if self.bad_reads > self.bad_reads_checked:
            self._check_images(progress)
        return checkpoint_due

    def _check_images(self, progress: Progress | NullProgress) -> None:
        """Fail, after a checkpoint, if too many images are unreadable; an image that several ranks read counts once."""
        self.bad_reads_checked = self.bad_reads
        self._read_reports(progress, all_steps=True)
        try:
            self.unreadable_images.check(unreadable(self.unreadable_images, self.world))
        except UserError as error:
            self._save(progress)
            raise AgreedError(str(error)) from None

    def _evaluation_is_due(self, step: int) -> bool:
        every = self.config.training.evaluate_every
        due = every is not None and step % max(1, round(every * self.steps_per_epoch)) == 0
        return due or step == self.total_steps

    def _evaluate(self, progress: Progress | NullProgress) -> None:
        """Evaluate the averaged weights, at the end also the raw ones. A resumed run repeats an interrupted one."""
        progress.status("evaluating")
        weights = AveragedWeights(self.optimizer, self.model.trainable_variables)
        last, due = self.step == self.total_steps or self.out_of_time, self._evaluation_is_due(self.step)
        try:
            best = self.validation.run(self.step, self.best, self.unreadable_images, progress, weights, last, due)
        except Stopped:
            self.stopping = True
            return
        self.best = Best(*self.world.broadcast_object(best))
        self.evaluation_pending = False
        progress.status("")
        self._save(progress)
        if self.step < self.total_steps and self.best.exhausted(self.config.training):
            progress.message(self.best.describe(self.step, self.total_steps))

    def _save(self, progress: Progress | NullProgress) -> None:
        self.saved_at = time.monotonic()
        if not self.world.is_main:
            return
        if self.lock:
            self.lock.check()
        state = {
            "best_AP": self.best.ap,
            "best": self.best._asdict(),
            "evaluation_pending": self.evaluation_pending,
            "seconds": self.time_limit.used(),
            "ended_at_minutes": self.time_limit.minutes if self.out_of_time else None,
            "model_sha256": dict(self.validation.model_sha256),
            **self.start.identity(),
        }
        if self.saved_step == self.step:
            self.checkpoints.update_state(self.step, state)
        else:
            self.checkpoints.save(self.tracked, self.step, state)
            self.saved_step = self.step
            progress.checkpoint(self.step)
        progress.keep_history(self.folders)
