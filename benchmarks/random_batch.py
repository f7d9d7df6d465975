"""A batch of random images and boxes, for benchmarks whose time does not depend on what the images show."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from frcnn.data.batch import Batch


def random_batch(images: int, height: int, width: int, boxes: int = 8, classes: int = 3, seed: int = 0) -> Batch:
    """``images`` images of one canvas, with ``boxes`` objects each; the images fill the canvas."""
    rng = np.random.default_rng(seed)
    size = np.array([height, width], np.float32)
    sides = rng.uniform(0.05, 0.4, (images, boxes, 2)) * size
    corners = rng.uniform(0.0, 1.0, (images, boxes, 2)) * (size - sides)
    found = np.concatenate([corners[..., ::-1], (corners + sides)[..., ::-1]], axis=-1)
    sizes = np.tile(size.astype(np.int32), (images, 1))
    return Batch(
        images=tf.constant(rng.integers(0, 256, (images, height, width, 3)), tf.uint8),
        image_sizes=tf.constant(sizes),
        original_sizes=tf.constant(sizes),
        boxes=tf.constant(found, tf.float32),
        labels=tf.constant(rng.integers(1, classes + 1, (images, boxes)), tf.int32),
        crowd=tf.zeros([images, boxes], tf.bool),
        image_ids=tf.range(images, dtype=tf.int64),
    )
