"""From images to detections, for the Python API, evaluation, prediction and serving.

Python API: :meth:`Detector.load`, :meth:`Detector.detect` and :meth:`Detections.draw` take arrays, files and Pillow
images, and raise :class:`frcnn.errors.UserError` for anything else.

Batch interface of evaluation and serving: :meth:`Detector.prepare`, :meth:`Detector.detect_batch` and
:meth:`Detector.detect_index` work on prepared images that share a canvas.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from frcnn.config import Config, with_test_options
from frcnn.data.coco import Index
from frcnn.data.decode import UnreadableImage, decode_image, upright_pixels
from frcnn.data.image_limits import DEFAULT_MAX_PIXELS
from frcnn.data.pipeline import inference_batches, prepare_image
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.drawing import MAX_SIDE, class_color, draw_boxes
from frcnn.errors import UserError
from frcnn.modeling.detections import BatchDetections
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.views import at_largest_scale
from frcnn.per_shape import PerShape
from frcnn.weights.model_folder import load_weights, read_model_folder
from frcnn.weights.score_thresholds import ScoreThresholds, read_thresholds

# An RGB array [H, W, 3] uint8, an image file, or a Pillow image.
ImageSource = np.ndarray | Image.Image | str | os.PathLike[str]
SINGLE_IMAGE = (np.ndarray, Image.Image, str, os.PathLike)


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections in one image, best first.

    Attributes:
        boxes: ``[D, 4]`` float32, ``(x1, y1, x2, y2)`` in pixels of the upright original image.
        scores: ``[D]`` float32 in (0, 1].
        labels: ``[D]`` int32 in 1..K.
        class_names: the model's classes: label k is ``class_names[k - 1]``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[label - 1] for label in self.labels]

    def at_least(self, minimum: float | ScoreThresholds) -> np.ndarray:
        """``[D]`` bool: the detections of a minimum score, or of the one of their class."""
        limits = minimum.of(self.labels) if isinstance(minimum, ScoreThresholds) else minimum
        return self.scores >= limits

    def draw(
        self,
        image: ImageSource,
        score_threshold: float | ScoreThresholds = 0.5,
        max_side: int = MAX_SIDE,
        zoom: float = 1.0,
    ) -> Image.Image:
        """A copy of the image with boxes, class names and scores of detections of at least ``score_threshold``.

        Args:
            image: the image in which the detections were made.
            score_threshold: minimum score, or one for each class.
            max_side: pixels; larger images are reduced to it.
            zoom: factor of line widths and captions.

        Raises:
            UserError: the image cannot be read.
        """
        shown = np.flatnonzero(self.at_least(score_threshold))[::-1]  # the best is drawn last, on top
        names = self.names
        captions = [f"{names[i]} {self.scores[i]:.2f}" for i in shown]
        colors = [class_color(int(label)) for label in self.labels[shown]]
        return draw_boxes(load_image(image), self.boxes[shown], captions, colors, max_side=max_side, zoom=zoom)


class Prepared(NamedTuple):
    """One image as the model takes it.

    Attributes:
        canvas: ``[H, W, 3]``, as ``Batch.images``.
        size: ``[2]`` int32, height and width before padding.
        original_size: height and width of the upright original, pixels.
    """

    canvas: np.ndarray
    size: np.ndarray
    original_size: tuple[int, int]


class Detector:
    """A model and its classes, for images of any size. TensorFlow traces once per canvas and batch size.

    Attributes:
        thresholds: the model folder's minimum scores, if it has any; detections of all scores are returned.
    """

    def __init__(
        self,
        model: FasterRCNN,
        config: Config,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        thresholds: ScoreThresholds | None = None,
    ) -> None:
        self.model = model
        self.config = at_largest_scale(config)
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.thresholds = thresholds
        self._detect = PerShape(model.detect)
        self._features = PerShape(self._pool_features)

    @classmethod
    def load(cls, folder: Path, test: str | None = None) -> Detector:
        """Load the detector of a model folder.

        Args:
            test: options of the group ``test`` that differ from the model's, such as ``"flip=true soft_nms=linear"``.

        Raises:
            UserError: a file of the folder is missing, damaged or does not match the others, or an option is invalid.
        """
        saved = read_model_folder(folder)
        config = with_test_options(saved.config, test)
        model = build_model(len(saved.class_names), config)
        load_weights(model, saved.weights)
        model.fold_batch_norm()
        thresholds = read_thresholds(folder, saved.class_names)
        return cls(model, config, saved.class_names, saved.category_ids, thresholds)

    def detect(self, images: ImageSource | Sequence[ImageSource], batch_size: int = 1) -> list[Detections]:
        """Detect objects in one image or several.

        Args:
            images: a NumPy array ``[H, W, 3]`` uint8 RGB, an image file, a Pillow image, or a sequence of these. Files
                and Pillow images are turned upright by their EXIF orientation.
            batch_size: images of the same canvas that are computed at once.

        Returns:
            One :class:`Detections` per image, in the order of the images.

        Raises:
            UserError: an image cannot be read, or is none of these types.
        """
        single = isinstance(images, SINGLE_IMAGE) and not _is_stack(images)
        sources = images if isinstance(images, Iterable) and not single else [images]
        waiting: dict[tuple[int, ...], list[tuple[int, Prepared]]] = defaultdict(list)
        results: dict[int, Detections] = {}

        def run(batch: list[tuple[int, Prepared]]) -> None:
            # An incomplete batch is filled with its last image: another batch size would need another trace.
            filled = [prepared for _, prepared in batch] + [batch[-1][1]] * (batch_size - len(batch))
            found = self.detect_batch(filled)
            results.update({position: found[row] for row, (position, _) in enumerate(batch)})
            batch.clear()

        for position, source in enumerate(sources):
            prepared = self.prepare(load_image(source, self.config.data.max_pixels))
            batch = waiting[prepared.canvas.shape]
            batch.append((position, prepared))
            if len(batch) == batch_size:
                run(batch)
        for batch in waiting.values():
            if batch:
                run(batch)
        return [results[position] for position in range(len(results))]

    def prepare(self, image: np.ndarray) -> Prepared:
        """Resize an upright RGB image ``[H, W, 3]`` uint8 and place it on its canvas; thread-safe."""
        prepared = prepare_image(image, self.config.image, self.config.ops.kernel)
        return Prepared(*prepared, (image.shape[0], image.shape[1]))

    def detect_batch(self, images: Sequence[Prepared]) -> list[Detections]:
        """Detect objects in prepared images that share a canvas, as one batch."""
        found = self._detect(
            images[0].canvas[None] if len(images) == 1 else np.stack([image.canvas for image in images]),
            np.stack([image.size for image in images]),
            np.array([image.original_size for image in images], np.int32),
        )
        return self._split(found)

    def features(self, image: Prepared) -> np.ndarray:
        """Mean of the coarsest features of the backbone's pyramid (P5) over the image, ``[C]`` float32, of length 1.

        Images that look alike to the model have similar ones.
        """
        return self._features(image.canvas[None], image.size).numpy()

    def _pool_features(self, canvas: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        level = self.model.pyramid(self.model.normalized(canvas, size[None]))[3][0]
        height, width = level.shape[:2]
        # Cells that begin within the image; the others see padding only.
        rows = -(-size[0] * height // canvas.shape[1])
        columns = -(-size[1] * width // canvas.shape[2])
        return tf.math.l2_normalize(tf.reduce_mean(tf.cast(level[:rows, :columns], tf.float32), axis=(0, 1)))

    def detect_index(
        self,
        index: Index,
        batch_size: int = 1,
        progress: Callable[[int, int], None] | None = None,
        rank: int = 0,
        size: int = 1,
        unreadable_images: UnreadableImages | None = None,
    ) -> dict[int, Detections]:
        """Detections by image id for all images of an index, or the share of ``rank`` of ``size`` ranks.

        Args:
            progress: called with (images done, number of images in the index).
            unreadable_images: counts the images that cannot be read.
        """
        results: dict[int, Detections] = {}
        for batch in inference_batches(index, self.config, batch_size, rank, size, unreadable_images):
            found = self._split(self._detect(batch.images, batch.image_sizes, batch.original_sizes))
            for image_id, detections in zip(batch.image_ids.numpy().tolist(), found, strict=True):
                if image_id != -1:
                    results[image_id] = detections
            if progress:
                progress(len(results), len(index.images))
        return results

    def _split(self, found: BatchDetections) -> list[Detections]:
        boxes, scores, labels, counts = (tensor.numpy() for tensor in found)
        return [Detections(boxes[i, :n], scores[i, :n], labels[i, :n], self.class_names) for i, n in enumerate(counts)]


def load_image(source: ImageSource, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Upright RGB pixels ``[H, W, 3]`` uint8 of an array, image file or Pillow image.

    Raises:
        UserError: the image cannot be read, or is of another type or shape.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise UserError(
                f"the image is an array {source.dtype} {source.shape}; expected uint8 [height, width, 3] in RGB"
            )
        return source
    try:
        if isinstance(source, Image.Image):
            return upright_pixels(source)
        if isinstance(source, (str, os.PathLike)):
            return decode_image(Path(source), max_pixels)
    except UnreadableImage as error:
        raise UserError(str(error)) from error
    raise UserError(f"the image is a {type(source).__name__}; expected a NumPy array, a path or a Pillow image")


def _is_stack(images: ImageSource | Sequence[ImageSource]) -> bool:
    """An array ``[B, H, W, 3]`` is a sequence of images."""
    return isinstance(images, np.ndarray) and images.ndim == 4
