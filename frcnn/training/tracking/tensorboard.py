"""TensorBoard's files: scalars, images, hyperparameters, and summaries of its plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams


class TensorBoardSink:
    """Writes TensorBoard's files, which is fast enough for the training loop's own thread.

    Args:
        folder: gets the event files.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._writer = tf.summary.create_noop_writer()

    def start(self, parameters: Mapping[str, str | float]) -> None:
        self._writer = tf.summary.create_file_writer(self.name)
        if parameters:
            with self._writer.as_default():
                hparams.hparams(dict(parameters), trial_id="run")
        self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        with self._writer.as_default():
            for number, image in enumerate(images):
                tf.summary.image(f"{name}/{number}", image[None], step=step)
        self._writer.flush()

    def summaries(self, step: int, serialized: Sequence[bytes]) -> None:
        """Write ``Summary`` messages, such as those of :mod:`frcnn.training.tracking.pr_curves`."""
        with self._writer.as_default():
            for summary in serialized:
                tf.summary.experimental.write_raw_pb(summary, step=step)
        self._writer.flush()

    def finish(self, files: Sequence[Path], succeeded: bool) -> None:
        self._writer.close()
