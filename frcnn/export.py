"""A model folder as a SavedModel: preprocessing, network and suppression in one graph that TensorFlow runs without frcnn."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tensorflow as tf

from frcnn import config
from frcnn.data import in_graph
from frcnn.data.plan import canvases
from frcnn.data.transforms import to_canvas
from frcnn.errors import UserError
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.ops import compiled
from frcnn.weights.model_folder import CONFIG, LABELS, ModelFolder, load_weights, read_model_folder

EXTRA = "assets.extra"  # what TensorFlow's format sets aside for files that it does not read itself


class ExportedDetector(tf.Module):
    """What is saved: the model's variables and two ways in.

    Pictures of a call are worked off one after the other, each on its own canvas, so they may differ in size and none has
    another result than alone.
    """

    def __init__(self, model: FasterRCNN, image: config.Image) -> None:
        super().__init__(name="frcnn")
        # The variables alone: a Keras model would bring its own saved format along.
        self.weights = [variable.value for variable in model.variables]
        self._image = image
        self._detect = tf.function(model.detect)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections of encoded pictures ``[B]``: boxes ``[B, D, 4]``, scores and labels ``[B, D]``, counts ``[B]``."""
        return self._each(lambda encoded: self._detect_one(in_graph.decode(encoded)), image_bytes)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def from_pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections of upright RGB pictures ``[B, H, W, 3]``; results as those of :meth:`from_bytes`."""
        return self._each(self._detect_one, images)

    def _each(self, detect: Callable[[tf.Tensor], dict[str, tf.Tensor]], pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        shapes = {"boxes": tf.float32, "scores": tf.float32, "labels": tf.int32, "counts": tf.int32}
        return tf.map_fn(detect, pictures, parallel_iterations=1, fn_output_signature=shapes)

    def _detect_one(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections of one picture ``[H, W, 3]`` uint8, without the batch's axis."""
        original = tf.shape(pixels)[:2]
        size = in_graph.resized_size(original, self._image.min_size[-1], self._image)
        resized = in_graph.resize(pixels, size, self._image)

        def on(canvas: tuple[int, int]) -> Callable[[], dict[str, tf.Tensor]]:
            def detect() -> dict[str, tf.Tensor]:
                picture = to_canvas(resized, (0, 0), canvas, self._image)
                found = self._detect(picture[None], size[None], original[None])
                return {name: value[0] for name, value in found._asdict().items()}

            return detect

        # A branch a canvas: inside the network all shapes are static.
        return tf.switch_case(
            in_graph.canvas_number(original, self._image), [on(canvas) for canvas in canvases(self._image)]
        )


def export_savedmodel(model: Path, out: Path, kernel: Literal["reference", "compiled"]) -> None:
    """Write a SavedModel of a model folder into the new folder ``out``, whole or not at all.

    Args:
        kernel: ``reference`` needs TensorFlow alone where it is loaded; ``compiled`` puts the library of our kernels into
            ``assets.extra/``, to be loaded with ``tf.load_op_library`` before the model.

    Raises:
        UserError: ``model`` is no model folder, ``out`` exists, or there are no kernels to send along.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; give --out a folder that is new or empty")
    saved = read_model_folder(model)
    if kernel == "compiled":
        compiled.operations()
    detector = build_model(len(saved.class_names), saved.config.model_copy(update={"ops": config.Ops(kernel=kernel)}))
    load_weights(detector, saved.weights)
    exported = ExportedDetector(detector, saved.config.image)
    signatures = {"serving_default": exported.from_bytes, "pixels": exported.from_pixels}
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        tf.saved_model.save(exported, str(aside), signatures)
        _add_extras(saved, aside / EXTRA, compiled.active_kernels().library if kernel == "compiled" else None)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _add_extras(saved: ModelFolder, folder: Path, library: Path | None) -> None:
    folder.mkdir()
    for name in (LABELS, CONFIG):
        shutil.copy(saved.path / name, folder / name)
    if library:
        shutil.copy(library, folder / library.name)
