"""Evaluation of the validation split during training, and the model folder of the best result so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.coco import Index
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.distributed.watchdog import Watchdog
from frcnn.evaluation.coco import Metrics, evaluate_detections
from frcnn.evaluation.split import detect_split, unreadable
from frcnn.evaluation.visualize import draw_comparisons
from frcnn.inference import Detections, Detector
from frcnn.training.folders import Folders
from frcnn.training.progress import NullProgress, Progress
from frcnn.weights.model_folder import write_model_folder

DRAWN_IMAGES = 8  # per evaluation


class Validation:
    """Measures the validation split on all ranks; rank 0 writes the model folders.

    Args:
        index: the validation split, or None: the model is then written without being evaluated.
        train_data: fingerprint of the training data, for ``metrics.json``.
        stopped: asked after each batch; when it is true on some rank, the evaluation is abandoned.
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
        stopped: Callable[[], bool],
    ) -> None:
        self.detector = detector
        self.index = index
        self.config = config
        self.folders = folders
        self.world = world
        self.watchdog = watchdog
        self.train_data = train_data
        self.stopped = stopped

    def run(
        self, step: int, best_ap: float | None, train_images: UnreadableImages, progress: Progress | NullProgress
    ) -> float | None:
        """Evaluate the model as it is, and write it if it is at least as good as ``best_ap``.

        Args:
            train_images: unreadable training images, which the report counts together with those of the validation
                split.

        Returns:
            The best AP, which only rank 0 knows.

        Raises:
            Stopped: some rank got a signal; nothing was measured.
            UserError: too many images are unreadable, or the model folder cannot be written.
        """
        if self.index is None:
            self._write_model({"step": step})
            return best_ap
        unreadable_images = UnreadableImages(self.index, self.config.data.max_bad_image_share)
        results = self._detect(self.index, unreadable_images)
        unread = unreadable(unreadable_images, self.world)
        with self.world.raise_together():
            unreadable_images.check(unread)
        unread |= unreadable(train_images, self.world)
        if not self.world.is_main:
            return best_ap
        metrics = evaluate_detections(self.index, results, lambda *_: self.watchdog.tick())
        progress.evaluation(step, {**metrics.to_json(), "unreadable_images": len(unread)})
        first, folder = self.index.images[:DRAWN_IMAGES], self.folders.output / "images"
        progress.images(step, "validation", draw_comparisons(first, results, self.detector.class_names, folder))
        ap = _ap_or_zero(metrics)
        if best_ap is not None and ap < best_ap:
            return best_ap
        self._write_model({**metrics.to_json(), "split": "validation", "step": step})
        return ap

    def _detect(self, index: Index, unreadable_images: UnreadableImages) -> dict[int, Detections]:
        # Batch norm statistics that each rank keeps on its own would make the ranks detect with different models.
        self.world.broadcast(self.detector.model.non_trainable_variables)
        # A GPU takes as many images at a time as in training; one image already keeps all cores of a CPU busy.
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        batch_size = self.config.training.batch_size // self.world.size if on_gpu else 1
        return detect_split(
            self.detector,
            index,
            self.world,
            unreadable_images,
            batch_size,
            lambda *_: self.watchdog.tick(),
            self.stopped,
        )

    def _write_model(self, metrics: dict[str, Any]) -> None:
        if not self.world.is_main:
            return
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
        metrics = {**metrics, "train_data": self.train_data, "versions": versions}
        detector = self.detector
        for folder in self.folders.models:
            write_model_folder(
                folder, detector.model, self.config, detector.class_names, detector.category_ids, metrics
            )


def _ap_or_zero(metrics: Metrics) -> float:
    ap = metrics.summary["AP"]
    return 0.0 if math.isnan(ap) else ap
