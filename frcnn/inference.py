"""From pictures to detections: the one way in for evaluate, predict, serve and export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.coco import Index
from frcnn.data.pipeline import inference_batches, prepare_image
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.roi_head import BatchDetections
from frcnn.weights.model_folder import load_weights, read_model_folder


class Detections(NamedTuple):
    """What was found in one image, best first.

    Attributes:
        boxes: ``[D, 4]`` float32, ``(x1, y1, x2, y2)`` in pixels of the original image.
        scores: ``[D]`` float32 in (0, 1].
        labels: ``[D]`` int32 in 1..K, positions in the model's class names, counted from 1.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Prepared(NamedTuple):
    """One picture as the model takes it.

    Attributes:
        canvas: ``[H, W, 3]`` float32, normalised, zero-padded right and bottom.
        size: ``[2]`` int32, height and width before padding.
        original_size: height and width of the picture itself, pixels.
    """

    canvas: np.ndarray
    size: np.ndarray
    original_size: tuple[int, int]


class Detector:
    """A model with its classes, ready for pictures of any size. Traces once per canvas and batch size."""

    def __init__(
        self, model: FasterRCNN, config: Config, class_names: Sequence[str], category_ids: Sequence[int]
    ) -> None:
        self.model = model
        self.config = config
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self._detect = tf.function(model.detect)

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """Detector from a model folder alone.

        Raises:
            UserError: a file of the folder is missing, damaged or does not fit the others.
        """
        saved = read_model_folder(folder)
        model = build_model(len(saved.class_names), saved.config)
        load_weights(model, saved.weights)
        return cls(model, saved.config, saved.class_names, saved.category_ids)

    def detect(self, images: Sequence[np.ndarray], batch_size: int = 1) -> list[Detections]:
        """Detections of upright RGB pictures ``[H, W, 3]`` uint8, in their order; same-canvas pictures share batches."""
        prepared = [self.prepare(image) for image in images]
        of_canvas: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, picture in enumerate(prepared):
            of_canvas[picture.canvas.shape[:2]].append(position)
        results: dict[int, Detections] = {}
        for positions in of_canvas.values():
            for start in range(0, len(positions), batch_size):
                chunk = positions[start : start + batch_size]
                # A short last chunk repeats its last picture: another batch size would mean another trace.
                rows = chunk + chunk[-1:] * (batch_size - len(chunk))
                results.update(zip(chunk, self.detect_batch([prepared[row] for row in rows]), strict=False))
        return [results[position] for position in range(len(images))]

    def prepare(self, image: np.ndarray) -> Prepared:
        """An upright RGB picture ``[H, W, 3]`` uint8 on its canvas; safe to call from many threads."""
        return Prepared(*prepare_image(image, self.config.image), (image.shape[0], image.shape[1]))

    def detect_batch(self, pictures: Sequence[Prepared]) -> list[Detections]:
        """Detections of prepared pictures that share a canvas, as one batch."""
        found = self._detect(
            np.stack([picture.canvas for picture in pictures]),
            np.stack([picture.size for picture in pictures]),
            np.array([picture.original_size for picture in pictures], np.int32),
        )
        return _split(found)

    def detect_index(
        self,
        index: Index,
        batch_size: int = 1,
        progress: Callable[[int, int], None] | None = None,
        rank: int = 0,
        size: int = 1,
        unreadable_images: UnreadableImages | None = None,
    ) -> dict[int, Detections]:
        """Detections by image id of every image of an index, or of the share of process ``rank`` of ``size``.

        ``progress`` is told (images done, all images of the index); ``unreadable_images`` counts those that could not be read.
        """
        results: dict[int, Detections] = {}
        for batch in inference_batches(index, self.config, batch_size, rank, size, unreadable_images):
            found = _split(self._detect(batch.images, batch.image_sizes, batch.original_sizes))
            for image_id, detections in zip(batch.image_ids.numpy().tolist(), found, strict=True):
                if image_id != -1:
                    results[image_id] = detections
            if progress:
                progress(len(results), len(index.images))
        return results


def _split(found: BatchDetections) -> list[Detections]:
    boxes, scores, labels, counts = (tensor.numpy() for tensor in found)
    return [Detections(boxes[i, :n], scores[i, :n], labels[i, :n]) for i, n in enumerate(counts)]
