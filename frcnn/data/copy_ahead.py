"""Copies the images of the next batches to a GPU while it computes a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import tensorflow as tf

from frcnn.data.batch import Batch
from frcnn.data.threads import thread_pool

COPIED_BATCHES = 2


def copy_ahead(batches: Iterator[Batch], device: str) -> Iterator[Batch]:
    """The same batches, with their images in the memory of ``device``, ``COPIED_BATCHES`` of them ahead.

    TensorFlow copies a tensor to a GPU after everything that was enqueued before the copy. In the call of a step the
    copy would therefore wait for the step before and leave the GPU idle meanwhile; a thread copies earlier. The other
    tensors are small: their copies do not block.
    """

    def next_batch() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with tf.device(device):
            return batch._replace(images=tf.identity(batch.images))

    with thread_pool(1) as thread:
        pending = deque(thread.submit(next_batch) for _ in range(COPIED_BATCHES))
        while (batch := pending.popleft().result()) is not None:
            pending.append(thread.submit(next_batch))
            yield batch
