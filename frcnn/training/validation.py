"""Evaluation of the validation split during training, and the model folder of the best result so far."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from frcnn import ops
from frcnn.config import Config
from frcnn.data.coco import Index
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.distributed.watchdog import Watchdog
from frcnn.evaluation.coco import Metrics, evaluate_detections
from frcnn.evaluation.matching import Matches, match_detections
from frcnn.evaluation.split import Stopped, detect_split, unreadable
from frcnn.evaluation.thresholds import macro_f1, thresholds_document
from frcnn.evaluation.visualize import draw_comparisons
from frcnn.inference import Detections, Detector
from frcnn.report.page import PAGE
from frcnn.training.best_model import Best, metric_value
from frcnn.training.final_report import DETECTIONS_FILE, keep_detections, kept_detections, write_final_report
from frcnn.training.folders import Folders
from frcnn.training.null_progress import NullProgress
from frcnn.training.optimizer import AveragedWeights
from frcnn.training.progress import REPORT_FOLDER, Progress
from frcnn.training.run_state import hash_model
from frcnn.training.time_limit import TimeLimit
from frcnn.weights.model_files import WEIGHTS
from frcnn.weights.model_folder import write_model_folder

DRAWN_IMAGES = 8  # per evaluation


class Measured(NamedTuple):
    """An evaluation of the model with some weights.

    Attributes:
        weights: ``"averaged"`` or ``"raw"``.
        results: detections by image id.
        matches: the detections, matched with the objects.
    """

    weights: str
    results: dict[int, Detections]
    metrics: Metrics
    matches: Matches


class Validation:
    """Measures the validation split on all ranks; rank 0 writes the model folders.

    Args:
        index: the validation split, or None: the model is then written without being evaluated.
        train_data: fingerprint of the training data, for ``metrics.json``.
        datasets: summary of the training data, to which that of the validation split is added, for ``metrics.json``.
        time_limit: of the run; it measures the evaluations.
        stopped: asked after each batch, and on rank 0 while it computes the metrics and the final report; when it is
            true, the evaluation or the report is abandoned.
    """

    def __init__(
        self,
        detector: Detector,
        index: Index | None,
        config: Config,
        folders: Folders,
        world: World,
        watchdog: Watchdog,
        train_data: str,
        datasets: Mapping[str, Any],
        time_limit: TimeLimit,
        stopped: Callable[[], bool],
    ) -> None:
        self.detector = detector
        self.index = index
        self.config = config
        self.folders = folders
        self.world = world
        self.watchdog = watchdog
        self.train_data = train_data
        self.datasets = {**datasets, **({"validation": index.summary.to_json()} if index else {})}
        self.time_limit = time_limit
        self.stopped = stopped
        self.model_sha256: Mapping[str, str] = {}  # hashes of the model folder's files
        self._has_new_model = False  # whether this process wrote one

    def run(
        self,
        step: int,
        best: Best,
        train_images: UnreadableImages,
        progress: Progress | NullProgress,
        averaged: AveragedWeights,
        last: bool,
        counts: bool = True,
    ) -> Best:
        """Evaluate the model, and write it if it is at least as good as the best so far.

        The averaged weights are evaluated if the run keeps them. If the run ends with this evaluation, the raw weights
        are evaluated as well, and the better ones are taken. Early stopping counts the averaged ones alone.

        Args:
            train_images: unreadable training images, which the report counts together with those of the validation
                split.
            averaged: sets the averaged weights.
            last: the run ends, whatever is measured.
            counts: for early stopping.

        Returns:
            The best so far, which only rank 0 knows. If the model was written, ``model_sha256`` is set.

        Raises:
            Stopped: some rank got a signal; nothing was measured or written.
            UserError: too many images are unreadable, or the model folder cannot be written.
        """
        kind = "averaged" if averaged.averages else "raw"
        if self.index is None:
            with averaged:
                self._write_model({"weights": kind, "step": step})
            return best
        unreadable_images = UnreadableImages(self.index, self.config.data.max_bad_image_share)
        with self.time_limit.evaluating():
            with averaged:
                measured = self._measure(self.index, kind, unreadable_images)
            after = best.updated(measured.metrics, self.config.training.min_delta, counts)[0] if measured else best
            raw = None
            if averaged.averages and self._compares(last or after.exhausted(self.config.training), progress):
                raw = self._measure(self.index, "raw", unreadable_images)
            unread = unreadable(unreadable_images, self.world) | unreadable(train_images, self.world)
            if not measured:
                return best
            winner = self._better(measured, raw, step, best.metric, progress)
            if best.is_reached_by(winner.metrics):
                after = after.replaced_by(winner.metrics)
                with averaged if winner is measured else contextlib.nullcontext():
                    self._keep(winner, step, unread, progress)
        # Hyperparameter tuning takes a job's last value as its result, and the model folder keeps the best.
        record = {**after.records(), "unreadable_images": len(unread), "data": self.index.fingerprint[:12]}
        if raw:
            record[f"raw_{best.metric}"] = metric_value(raw.metrics, best.metric)
        progress.evaluation(step, {**measured.metrics.to_json(), **record})
        progress.pr_curves(step, measured.matches)
        first, class_names = self.index.images[:DRAWN_IMAGES], self.detector.class_names
        results, limit = measured.results, self.config.data.max_pixels
        progress.images(step, "validation", lambda folder: draw_comparisons(first, results, class_names, folder, limit))
        return after

    def _compares(self, end: bool, progress: Progress | NullProgress) -> bool:
        """Whether the raw weights are evaluated as well, as rank 0 decides: at the end, if there is time.

        Args:
            end: the run ends; only rank 0 knows.
        """
        if end and self.world.is_main and not self.time_limit.can_repeat():
            end = False
            progress.message(
                "training.max_minutes leaves no time to evaluate the raw weights as well; only the averaged weights "
                "were evaluated"
            )
        return bool(self.world.broadcast_object(end))

    def _better(
        self, measured: Measured, raw: Measured | None, step: int, metric: str, progress: Progress | NullProgress
    ) -> Measured:
        """The better of both; of equal ones the first."""
        if raw is None:
            return measured
        averaged_value, raw_value = metric_value(measured.metrics, metric), metric_value(raw.metrics, metric)
        better = raw if raw_value > averaged_value else measured
        progress.message(
            f"step {step}: {metric} {averaged_value:.4f} with averaged weights, {raw_value:.4f} with raw weights; the "
            f"{better.weights} ones are better"
        )
        return better

    def _measure(self, index: Index, weights: str, unreadable_images: UnreadableImages) -> Measured | None:
        """Detect with the weights as they are, and measure it on rank 0; None on the others.

        Raises:
            Stopped: on all ranks, if one of them got a signal while detecting, or rank 0 while measuring.
        """
        results = self._detect(index, unreadable_images)
        measured = None
        if self.world.is_main:
            with contextlib.suppress(Stopped):
                measured = self._measure_results(index, results, weights)
        if self.world.broadcast_object(measured is None):
            raise Stopped
        return measured

    def _measure_results(self, index: Index, results: dict[int, Detections], weights: str) -> Measured:
        metrics = evaluate_detections(index, results, self._tick)
        matches = match_detections(index, results, self._tick)
        if self.config.training.best_metric == "F1":
            metrics = dataclasses.replace(metrics, summary={**metrics.summary, "F1": macro_f1(matches)})
        return Measured(weights, results, metrics, matches)

    def _tick(self, *_: int) -> None:
        """Report progress of a long computation of rank 0; raises Stopped if it is to end."""
        self.watchdog.tick()
        if self.stopped():
            raise Stopped

    def _keep(
        self, measured: Measured, step: int, unread: Mapping[str, str], progress: Progress | NullProgress
    ) -> None:
        """Write the model, whose variables are those that were measured."""
        assert self.index is not None
        # Before all reports, which are optional.
        thresholds = thresholds_document(measured.matches, self.index, "validation")
        document = {**measured.metrics.to_json(), "split": "validation", "weights": measured.weights, "step": step}
        self._write_model(document, thresholds)
        self._keep_detections(measured.results, unread, progress)

    def _detect(self, index: Index, unreadable_images: UnreadableImages) -> dict[int, Detections]:
        # Batch norm statistics that each rank keeps on its own would make the ranks detect with different models.
        self.world.broadcast(self.detector.model.non_trainable_variables)
        # A GPU takes as many images at a time as in training; one image already keeps all cores of a CPU busy.
        batch_size = self.config.training.batch_size // self.world.size if ops.uses_gpu() else 1
        return detect_split(
            self.detector,
            index,
            self.world,
            unreadable_images,
            batch_size,
            lambda *_: self.watchdog.tick(),
            self.stopped,
        )

    def report(self, progress: Progress | NullProgress) -> None:
        """Write the report on the best model into the run's folder, on rank 0; nothing without a validation split."""
        index, model = self.index, self.folders.model
        if index is None or not self.world.is_main or not self.model_sha256:
            return
        if not self._has_new_model and (self.folders.output / REPORT_FOLDER / PAGE).exists():
            return
        file = self.folders.checkpoints / DETECTIONS_FILE
        kept = kept_detections(file, index, self.model_sha256[WEIGHTS])
        if kept is None:
            progress.message(f"no report: {file} is not of the best model; run frcnn report {model} --out report")
            return
        try:
            progress.report(
                lambda folder, records: write_final_report(folder, model, kept, index, self.config, records, self._tick)
            )
        except Stopped:
            progress.message(
                f"stopped before the report was complete; rerun the same command to write {REPORT_FOLDER}/"
            )

    def _keep_detections(
        self, results: Mapping[int, Detections], unread: Mapping[str, str], progress: Progress | NullProgress
    ) -> None:
        index = self.index
        assert index is not None
        self._has_new_model = True
        blank = sum(str(record.path) in unread for record in index.images)
        file, weights = self.folders.checkpoints / DETECTIONS_FILE, self.model_sha256[WEIGHTS]
        progress.optional(file, lambda: keep_detections(file, index, results, weights, blank))

    def _write_model(self, metrics: dict[str, Any], thresholds: dict[str, Any] | None = None) -> None:
        if not self.world.is_main:
            return
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
        metrics = {**metrics, "datasets": self.datasets, "train_data": self.train_data, "versions": versions}
        detector = self.detector
        for folder in self.folders.models:
            write_model_folder(
                folder, detector.model, self.config, detector.class_names, detector.category_ids, metrics, thresholds
            )
        self.model_sha256 = hash_model(self.folders.model)
