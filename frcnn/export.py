"""Export of a model folder as a SavedModel: preprocessing, network and NMS in one graph that runs without frcnn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tensorflow as tf

from frcnn import config
from frcnn.atomic import atomic_folder
from frcnn.config import with_test_options
from frcnn.data import in_graph
from frcnn.data.plan import canvases
from frcnn.data.transforms import to_canvas
from frcnn.errors import UserError
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.views import at_largest_scale
from frcnn.ops import compiled
from frcnn.weights.model_files import CONFIG, LABELS, THRESHOLDS
from frcnn.weights.model_folder import ModelFolder, load_weights, read_model_folder

EXTRA = "assets.extra"  # folder of the SavedModel format for files that TensorFlow does not read


class ExportedDetector(tf.Module):
    """The exported module: the model's variables and two signatures.

    Images of a call are processed one after the other, each on its own canvas. So their sizes may differ, and each has
    the same result as alone.
    """

    def __init__(self, model: FasterRCNN, image: config.Image) -> None:
        super().__init__(name="frcnn")
        # Only the variables: a Keras model would add its own format.
        self.weights = model.inference_variables
        self._image = image
        self._detect = tf.function(model.detect, autograph=False)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections in encoded images ``[B]``: boxes ``[B, D, 4]``, scores and labels ``[B, D]``, counts ``[B]``."""
        return self._each(lambda encoded: self._detect_one(in_graph.decode(encoded)), image_bytes)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def from_pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections in upright RGB images ``[B, H, W, 3]``; results as for :meth:`from_bytes`."""
        return self._each(self._detect_one, images)

    def _each(self, detect: Callable[[tf.Tensor], dict[str, tf.Tensor]], images: tf.Tensor) -> dict[str, tf.Tensor]:
        shapes = {"boxes": tf.float32, "scores": tf.float32, "labels": tf.int32, "counts": tf.int32}
        return tf.map_fn(detect, images, parallel_iterations=1, fn_output_signature=shapes)

    def _detect_one(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections in one image ``[H, W, 3]`` uint8, without a batch axis."""
        original = tf.shape(pixels)[:2]
        size = in_graph.resized_size(original, self._image.min_size[-1], self._image)
        resized = in_graph.resize(pixels, size, self._image)

        def detector_for(canvas: tuple[int, int]) -> Callable[[], dict[str, tf.Tensor]]:
            def detect() -> dict[str, tf.Tensor]:
                image = to_canvas(resized, (0, 0), canvas, self._image)
                found = self._detect(image[None], size[None], original[None])
                return {name: value[0] for name, value in found._asdict().items()}

            return detect

        # One branch per canvas, so that all shapes in the network are static.
        return tf.switch_case(
            in_graph.canvas_number(original, self._image), [detector_for(canvas) for canvas in canvases(self._image)]
        )


def export_savedmodel(
    model: Path, out: Path, kernel: Literal["reference", "compiled"], test: str | None = None
) -> None:
    """Write a model folder as a SavedModel into the new folder ``out``, completely or not at all.

    Args:
        kernel: ``reference`` needs only TensorFlow to run; ``compiled`` adds the library of our kernels to
            ``assets.extra/``, which has to be loaded with ``tf.load_op_library`` before the model.
        test: options of the group ``test`` that differ from the model's; the graph contains what they ask for.

    Raises:
        UserError: ``model`` is not a model folder, ``out`` is not empty, or there are no compiled kernels.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; give a new or empty folder as --out")
    saved = read_model_folder(model)
    if kernel == "compiled":
        compiled.operations()
    options = with_test_options(saved.config, test).model_copy(update={"ops": config.Ops(kernel=kernel)})
    detector = build_model(len(saved.class_names), options)
    load_weights(detector, saved.weights)
    detector.fold_batch_norm()
    exported = ExportedDetector(detector, at_largest_scale(options).image)
    signatures = {"serving_default": exported.from_bytes, "pixels": exported.from_pixels}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as temporary:
        tf.saved_model.save(exported, str(temporary), signatures)
        _add_extras(saved, temporary / EXTRA, compiled.active_kernels().files if kernel == "compiled" else [])


def _add_extras(saved: ModelFolder, folder: Path, kernels: list[Path]) -> None:
    folder.mkdir()
    for name in (LABELS, CONFIG, THRESHOLDS):
        if (saved.path / name).exists():  # the thresholds are optional
            shutil.copy(saved.path / name, folder / name)
    for file in kernels:
        shutil.copy(file, folder / file.name)
