"""The model of one worker: loaded and warmed up in the background, monitored, and shut down in order."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from frcnn.data.example import inference_dtype
from frcnn.data.plan import canvases
from frcnn.data.tiles import Tile
from frcnn.errors import UserError
from frcnn.inference import Detections, Detector, Prepared
from frcnn.serving import metrics
from frcnn.serving.batching import Batcher
from frcnn.serving.decoder_pool import DecoderPool
from frcnn.serving.health import Health
from frcnn.serving.options import ServeOptions
from frcnn.tiling import Tiling, thresholds_mismatch
from frcnn.weights.model_folder import read_model_folder
from frcnn.weights.model_hashes import file_hash

HEALTH_INTERVAL = 0.5  # seconds between two health reports
VERSION_DIGITS = 12

logger = logging.getLogger(__name__)


class Engine:
    """Model, batcher and health of one worker. ``detector`` and ``batcher`` exist once it is ``loaded``.

    Args:
        folder: the model folder.
        on_load_failure: called with a message if the model cannot be loaded.
    """

    detector: Detector
    batcher: Batcher
    model_version: str

    def __init__(
        self, options: ServeOptions, folder: Path, health: Health, on_load_failure: Callable[[str], None]
    ) -> None:
        self._options = options
        self._folder = folder
        self._health = health
        self._on_load_failure = on_load_failure
        self.tiling = Tiling(options.tile, options.overlap) if options.tile else None
        self._stage: str | None = "loading the model"  # None once it is loaded
        self._model_failure: str | None = None
        # Decoded images are large: at most one per core at a time.
        cores = os.cpu_count() or 1
        self.decoding = threading.BoundedSemaphore(cores)
        self.decoders = DecoderPool(cores, options.max_pixels, options.max_body_mb << 20, options.decode_timeout)
        health.report(self._stage)
        threading.Thread(target=self._load, name="loading", daemon=True).start()
        threading.Thread(target=self._report_health_forever, name="health", daemon=True).start()

    def unhealthy_reason(self) -> str | None:
        """Why this worker cannot detect now; None if it can."""
        if self._stage or self._model_failure:
            return self._stage or self._model_failure
        for activity, seconds in (
            ("inference", self.batcher.running_for()),
            ("decoding an image", self.decoders.busy_for()),
        ):
            if seconds > self._options.request_timeout:
                return f"{activity} has been running for {seconds:.0f} s"
        return None

    @property
    def loaded(self) -> bool:
        """Whether ``detector`` and ``batcher`` exist and are warmed up."""
        return self._stage is None

    def windows(self, image: np.ndarray) -> list[Tile]:
        """The parts of an image ``[H, W, 3]`` that are detected in: tiles, or only the whole image."""
        height, width = image.shape[:2]
        return self.tiling.windows(width, height) if self.tiling else [Tile(0, 0, width, height)]

    def close(self) -> None:
        """Run the queued images and end the inference thread and the decoder processes."""
        self.batcher.close()
        self.decoders.close()

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self.model_version = self._options.model_version or weights_digest(self._folder)
            self.detector = Detector.load(self._folder, self._options.test)
            if mismatch := thresholds_mismatch(self.detector.thresholds, self.tiling, self._options.test):
                logger.warning("%s", mismatch)
            sizes = batch_sizes(self._options.max_batch or 1)
            self._warm_up(sizes)
            self.batcher = Batcher(
                self._detect,
                sizes,
                self._options.batch_wait_ms / 1000,
                self._options.queue_size,
                on_failure=self._check_model,
            )
        except UserError as error:
            self._on_load_failure(str(error))
        except Exception as error:
            logger.exception("the model cannot be loaded")
            self._on_load_failure(f"the model cannot be loaded: {type(error).__name__}")
        else:
            self._stage = None
            self._report_health(None)
            seconds = time.monotonic() - started
            logger.info("ready after %.1f s: model %s, version %s", seconds, self._folder, self.model_version)

    def _detect(self, images: Sequence[Prepared]) -> list[Detections]:
        results = self.detector.detect_batch(images)
        self._model_failure = None
        return results

    def _warm_up(self, sizes: list[int]) -> None:
        """Trace and run every canvas at every batch size, so that no request waits for tracing."""
        images = self._blank_images()
        for number, image in enumerate(images):
            for size in sizes:
                height, width = image.canvas.shape[:2]
                self._stage = (
                    f"warming up canvas {number + 1} of {len(images)} ({height} x {width}) with batches of {size}"
                )
                self.detector.detect_batch([image] * size)

    def _blank_images(self) -> list[Prepared]:
        """An image of one color for each canvas of the model."""
        image = self.detector.config.image
        dtype = inference_dtype(image).as_numpy_dtype
        return [
            Prepared(np.zeros([*canvas, 3], dtype), np.array(canvas, np.int32), (int(canvas[0]), int(canvas[1])))
            for canvas in canvases(image)
        ]

    def _check_model(self) -> None:
        """After a failure: does the model fail on every image (GPU lost, out of memory), or was it that one image?"""
        try:
            self.detector.detect_batch(self._blank_images()[:1])
        except Exception as error:
            self._model_failure = f"the model fails even on a blank image: {type(error).__name__}"
            logger.error("%s: %s", self._model_failure, error)
        else:
            self._model_failure = None

    def _report_health_forever(self) -> None:
        while True:
            reason = self.unhealthy_reason()
            self._report_health(reason)
            metrics.HEALTHY.set(reason is None)
            metrics.QUEUE_DEPTH.set(self.batcher.depth() if self.loaded else 0)
            time.sleep(HEALTH_INTERVAL)

    def _report_health(self, reason: str | None) -> None:
        try:
            self._health.report(reason)
        except OSError as error:
            # Such as a full disk. The next report may succeed; if none does, the worker counts as stuck.
            logger.error("the worker's health cannot be written: %s", error)


def batch_sizes(largest: int) -> list[int]:
    """Powers of two below ``largest``, and ``largest``: any number of images splits into few batches of these sizes."""
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]


def weights_digest(folder: Path) -> str:
    """Default model version: the first digits of the SHA-256 of the weights file."""
    return file_hash(read_model_folder(folder).weights)[:VERSION_DIGITS]
