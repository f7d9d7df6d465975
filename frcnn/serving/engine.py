"""A worker's model: loaded and warmed in the background, watched, and shut down in order."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from frcnn.data.plan import canvases
from frcnn.errors import UserError
from frcnn.inference import Detections, Detector, Prepared
from frcnn.serving import metrics
from frcnn.serving.batching import Batcher
from frcnn.serving.health import Health
from frcnn.serving.options import ServeOptions
from frcnn.weights.model_folder import read_model_folder

WATCH_INTERVAL = 0.5  # seconds between two words about the worker's health
VERSION_DIGITS = 12

logger = logging.getLogger(__name__)


class Engine:
    """Model, batcher and health of one worker. ``detector`` and ``batcher`` are there once it is ``loaded``.

    Args:
        folder: the model folder itself.
        give_up: called with a sentence where the model cannot be loaded.
    """

    detector: Detector
    batcher: Batcher
    model_version: str

    def __init__(self, options: ServeOptions, folder: Path, health: Health, give_up: Callable[[str], None]) -> None:
        self._options = options
        self._folder = folder
        self._health = health
        self._give_up = give_up
        self._stage: str | None = "loading the model"  # None once it is done
        self._broken: str | None = None
        # Decoded pictures are large: no more of them at a time than there are cores to decode them.
        self.decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        health.report(self._stage)
        threading.Thread(target=self._load, name="loading", daemon=True).start()
        threading.Thread(target=self._watch, name="watching", daemon=True).start()

    def unhealthy_reason(self) -> str | None:
        """Why this worker cannot detect now; None where it can."""
        if self._stage or self._broken:
            return self._stage or self._broken
        stuck = self.batcher.running_for()
        if stuck > self._options.request_timeout:
            return f"inference has been running for {stuck:.0f} s"
        return None

    @property
    def loaded(self) -> bool:
        """Whether there is a ``detector`` with a ``batcher``, warmed."""
        return self._stage is None

    def close(self) -> None:
        """Run what waits and end the thread that owns the model."""
        self.batcher.close()

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self.model_version = self._options.model_version or weights_digest(self._folder)
            self.detector = Detector.load(self._folder)
            sizes = batch_sizes(self._options.max_batch or 1)
            self._warm(sizes)
            self.batcher = Batcher(
                self._detect,
                sizes,
                self._options.batch_wait_ms / 1000,
                self._options.queue_size,
                on_failure=self._examine,
            )
        except UserError as error:
            self._give_up(str(error))
        except Exception as error:
            logger.exception("the model cannot be loaded")
            self._give_up(f"the model cannot be loaded: {type(error).__name__}")
        else:
            self._stage = None
            self._report(None)
            logger.info(
                "ready after %.1f s: model %s, version %s", time.monotonic() - started, self._folder, self.model_version
            )

    def _detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        found = self.detector.detect_batch(pictures)
        self._broken = None
        return found

    def _warm(self, sizes: list[int]) -> None:
        """Trace and run every canvas at every batch size, so that no caller waits for it."""
        pictures = self._blank_pictures()
        for number, picture in enumerate(pictures):
            for size in sizes:
                height, width = picture.canvas.shape[:2]
                self._stage = f"warming canvas {number + 1} of {len(pictures)} ({height} x {width}), batches of {size}"
                self.detector.detect_batch([picture] * size)

    def _blank_pictures(self) -> list[Prepared]:
        """A picture of the mean colour on each of the model's canvases."""
        return [
            Prepared(np.zeros([*canvas, 3], np.float32), np.array(canvas, np.int32), (int(canvas[0]), int(canvas[1])))
            for canvas in canvases(self.detector.config.image)
        ]

    def _examine(self) -> None:
        """After a failure: was it the picture, or does the model not work any more (a lost GPU, no memory)?"""
        try:
            self.detector.detect_batch(self._blank_pictures()[:1])
        except Exception as error:
            self._broken = f"the model fails even on a blank picture: {type(error).__name__}"
            logger.error("%s: %s", self._broken, error)
        else:
            self._broken = None

    def _watch(self) -> None:
        while True:
            trouble = self.unhealthy_reason()
            self._report(trouble)
            metrics.HEALTHY.set(trouble is None)
            metrics.QUEUE_DEPTH.set(self.batcher.depth() if self.loaded else 0)
            time.sleep(WATCH_INTERVAL)

    def _report(self, trouble: str | None) -> None:
        try:
            self._health.report(trouble)
        except (
            OSError
        ) as error:  # such as a full disk: the next report may succeed, and without one the worker counts as stuck
            logger.error("the worker's health cannot be written: %s", error)


def batch_sizes(largest: int) -> list[int]:
    """Powers of two up to ``largest``, and that itself: any number of pictures is a sum of few of them."""
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]


def weights_digest(folder: Path) -> str:
    """What names the model where nothing else does: the first digits of its weights' SHA-256."""
    digest = hashlib.sha256()
    with read_model_folder(folder).weights.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:VERSION_DIGITS]
