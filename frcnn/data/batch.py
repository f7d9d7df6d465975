"""The batch that the input pipeline passes to the model."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Batch(NamedTuple):
    """Images of one static canvas with their ground truth; shapes are those of ``docs/architecture.md``.

    Attributes:
        images: ``[B, H, W, 3]``, zero-padded right and bottom: uint8 pixel values, which the model normalizes, or
            float32, normalized. Training batches are uint8; see :func:`frcnn.data.example.inference_dtype`.
        image_sizes: ``[B, 2]`` int32, height and width before padding.
        original_sizes: ``[B, 2]`` int32, height and width of the upright original image.
        boxes: ``[B, G, 4]`` float32 in canvas pixels, padded with zero boxes.
        labels: ``[B, G]`` int32 in 1..K, padded with 0.
        crowd: ``[B, G]`` bool, regions that are neither objects nor background.
        image_ids: ``[B]`` int64, ids of the annotation file; -1 marks a blank row that pads the batch.
    """

    images: tf.Tensor
    image_sizes: tf.Tensor
    original_sizes: tf.Tensor
    boxes: tf.Tensor
    labels: tf.Tensor
    crowd: tf.Tensor
    image_ids: tf.Tensor
