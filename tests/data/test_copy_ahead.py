"""Batches that a thread copies to a device ahead of the steps; the device is the CPU here."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import tensorflow as tf

from frcnn.data.batch import Batch
from frcnn.data.copy_ahead import COPIED_BATCHES, copy_ahead


def batch(number: int) -> Batch:
    image = tf.fill([1, 2, 2, 3], tf.constant(number, tf.uint8))
    sizes, boxes = tf.zeros([1, 2], tf.int32), tf.zeros([1, 0, 4])
    return Batch(image, sizes, sizes, boxes, tf.zeros([1, 0], tf.int32), tf.zeros([1, 0], tf.bool), tf.constant([7]))


def threads() -> int:
    return threading.active_count()


def test_order_and_end() -> None:
    before = threads()
    copied = list(copy_ahead(map(batch, range(5)), "CPU:0"))
    assert [int(tf.reduce_max(each.images)) for each in copied] == [0, 1, 2, 3, 4]
    assert all("CPU:0" in each.images.device for each in copied)
    assert [each.image_ids.numpy().tolist() for each in copied] == [[7]] * 5
    assert threads() == before


def test_reads_a_bounded_number_of_batches_ahead() -> None:
    drawn: list[int] = []

    def numbers() -> Iterator[Batch]:
        for number in range(100):
            drawn.append(number)
            yield batch(number)

    batches = copy_ahead(numbers(), "CPU:0")
    for _ in range(3):
        next(batches)
    batches.close()
    assert 3 <= len(drawn) <= 3 + COPIED_BATCHES


def test_an_error_arrives_at_its_batch() -> None:
    def failing() -> Iterator[Batch]:
        yield batch(0)
        raise OSError("cannot read")

    batches = copy_ahead(failing(), "CPU:0")
    next(batches)
    with pytest.raises(OSError, match="cannot read"):
        next(batches)
    assert threads() == threading.active_count()
