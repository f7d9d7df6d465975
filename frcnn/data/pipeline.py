"""Index + transforms -> tf.data batches of a few static shapes.

``plan.py`` decides which images make up a step and ``transforms.py`` how each is augmented; both are functions of
(seed, epoch, image), so that step s of a resumed run equals step s of an uninterrupted one. This module runs them in
threads.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Generator, Iterator

import numpy as np
import tensorflow as tf

from frcnn import config
from frcnn.data.batch import Batch
from frcnn.data.coco import ImageRecord, Index
from frcnn.data.example import Example, inference_dtype, load_example, prepare_image, resize_to_canvas
from frcnn.data.plan import Plan, batches_per_epoch, canvas_numbers, canvases, plan_epoch, plan_inference
from frcnn.data.problems import first_few
from frcnn.data.sampling import repeat_factors
from frcnn.data.transforms import Augmentation, sample_augmentation
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.errors import UserError

__all__ = [
    "canvases",
    "ground_truth_slots",
    "inference_batches",
    "prepare_image",
    "steps_per_epoch",
    "training_batches",
]

SLOT_MULTIPLE = 8  # ground-truth slots are rounded up to this, so that small changes of the data keep the shapes
PREFETCHED_BATCHES = 2
MAX_DEFAULT_WORKERS = 16  # each holds an image of up to 13 MB and competes for the GIL with the training loop


def ground_truth_slots(index: Index) -> int:
    """G of every batch of the index: its largest number of boxes in an image, rounded up to a multiple of 8."""
    most = max((len(record.labels) for record in index.images), default=0)
    return max(-(-most // SLOT_MULTIPLE), 1) * SLOT_MULTIPLE


def steps_per_epoch(index: Index, options: config.Config) -> int:
    """Training steps of every epoch, the same on every rank."""
    records = _training_records(index, options)
    numbers = canvas_numbers(records, options.image)
    return batches_per_epoch(
        numbers, canvases(options.image), options.training.batch_size, _repeat_factors(records, options)
    )


def training_batches(
    index: Index,
    options: config.Config,
    *,
    rank: int = 0,
    size: int = 1,
    start_step: int = 0,
    unreadable_images: UnreadableImages | None = None,
    epoch_steps: int | None = None,
) -> Iterator[Batch]:
    """Endless batches of augmented examples; step s is the same whichever ``start_step`` reading began at.

    Args:
        index: the training split.
        options: the run; ``training.batch_size`` is the global batch size.
        rank: of this process, among ``size``.
        start_step: ``epoch * steps_per_epoch + step in epoch``.
        unreadable_images: counts images that cannot be read; each is replaced by a blank image without objects.
        epoch_steps: steps of an epoch where other processes read a longer index; this index is then repeated.

    Returns:
        Iterator of :class:`Batch` with ``batch_size // size`` rows and G = :func:`ground_truth_slots`; canvases vary
        between batches.

    Raises:
        UserError: no image to train on, or a batch size that is not divisible by the number of ranks.
    """
    if options.training.batch_size % size:
        raise UserError(
            f"option 'training.batch_size' is {options.training.batch_size}, which {size} processes cannot share "
            "evenly; "
            f"give a multiple of {size}"
        )
    records = _training_records(index, options)
    sizes = canvases(options.image)
    numbers = canvas_numbers(records, options.image)
    rows_per_rank = options.training.batch_size // size
    factors = _repeat_factors(records, options)
    steps = batches_per_epoch(numbers, sizes, options.training.batch_size, factors)

    @functools.lru_cache(maxsize=1)
    def plan(epoch: int) -> Plan:
        return plan_epoch(numbers, sizes, options.training.batch_size, options.seed, epoch, factors)

    def rows(step: int) -> np.ndarray:
        epoch, batch = divmod(int(step), epoch_steps or steps)
        batch %= steps
        positions = plan(epoch).positions[batch, rank * rows_per_rank : (rank + 1) * rows_per_rank]
        return _rows(positions, epoch, sizes[plan(epoch).canvases[batch]])

    def augmentation(record: ImageRecord, epoch: int) -> Augmentation:
        return sample_augmentation(options, epoch, record.image_id)

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    # Also after a bilinear resize: rounding to 8 bits is less than the error of a JPEG.
    return _batches(dataset, rows, rows_per_rank, records, options, augmentation, tf.uint8, unreadable_images)


def inference_batches(
    index: Index,
    options: config.Config,
    batch_size: int,
    rank: int = 0,
    size: int = 1,
    unreadable_images: UnreadableImages | None = None,
) -> Iterator[Batch]:
    """Every image exactly once over all ranks, resized but not augmented, in batches of one canvas each.

    The last batch of a canvas is padded with blank rows of image id -1. Numbers of batches of ranks may differ by one.
    """
    sizes = canvases(options.image)
    plan = plan_inference(canvas_numbers(index, options.image), sizes, batch_size, rank, size)

    def rows(step: int) -> np.ndarray:
        return _rows(plan.positions[step], 0, sizes[plan.canvases[step]])

    def no_augmentation(record: ImageRecord, epoch: int) -> Augmentation:
        return Augmentation(options.image.min_size[-1])

    dataset = tf.data.Dataset.range(len(plan.positions))
    dtype = inference_dtype(options.image)
    return _batches(dataset, rows, batch_size, index, options, no_augmentation, dtype, unreadable_images)


def _training_records(index: Index, options: config.Config) -> Index:
    """The index without images that are not trained on. Raises UserError where no image has an object."""
    with_objects = tuple(record for record in index.images if not record.crowd.all())
    if not with_objects:
        reasons = (
            first_few(problem.reason for problem in index.problems) or "there are no annotations except crowd regions"
        )
        raise UserError(f"no image in {index.source} has an object to train on: {reasons}")
    return index if options.data.keep_images_without_objects else dataclasses.replace(index, images=with_objects)


def _repeat_factors(records: Index, options: config.Config) -> np.ndarray | None:
    threshold = options.data.repeat_threshold
    return None if threshold is None else repeat_factors(records, threshold)


def _rows(positions: np.ndarray, epoch: int, canvas: tuple[int, int]) -> np.ndarray:
    """Work items of a batch for the worker threads: ``[b, 4]`` int64 of position, epoch, canvas height and width."""
    return np.stack([positions, *(np.full_like(positions, value) for value in (epoch, *canvas))], axis=1)


def _batches(
    steps: tf.data.Dataset,
    rows: Callable[[int], np.ndarray],
    batch_size: int,
    index: Index,
    options: config.Config,
    augmentation: Callable[[ImageRecord, int], Augmentation],
    dtype: tf.DType,
    unreadable_images: UnreadableImages | None,
) -> Iterator[Batch]:
    """Batches from a dataset of step numbers and a function that gives the rows of a step."""
    unread = unreadable_images if unreadable_images is not None else UnreadableImages(index, max_share=1.0)
    slots = ground_truth_slots(index)
    workers = options.data.workers or min(_usable_cores(), MAX_DEFAULT_WORKERS)

    def rows_of(step: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(rows, [step], tf.int64, stateful=False), [batch_size, 4])

    def load(row: np.ndarray) -> Example:
        position, epoch, height, width = row.tolist()
        record = index.images[position] if position >= 0 else None
        drawn = augmentation(record, epoch) if record else Augmentation(options.image.min_size[-1])
        return load_example(record, (height, width), slots, options, drawn, unread)

    def example(row: tf.Tensor) -> Batch:
        types = [tf.uint8, tf.float32, tf.int32, tf.float32, tf.int32, tf.bool, tf.int64]
        shapes = ([None, None, 3], [2], [4, 2], [slots, 4], [slots], [slots], [3])
        loaded = tf.numpy_function(load, [row], types, stateful=False)
        pixels, extent, geometry, boxes, labels, crowd, numbers = (
            tf.ensure_shape(tensor, shape) for tensor, shape in zip(loaded, shapes, strict=True)
        )
        canvas = tf.cast(row[2:], tf.int32)
        image = resize_to_canvas(pixels, extent, geometry, canvas, options.image, dtype, options.ops.kernel)
        return Batch(image, geometry[2], tf.cast(numbers[1:], tf.int32), boxes, labels, crowd, numbers[0])

    dataset = steps.map(rows_of).unbatch().map(example, num_parallel_calls=workers, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(PREFETCHED_BATCHES)
    tuning = tf.data.Options()
    tuning.threading.private_threadpool_size = workers
    tuning.threading.max_intra_op_parallelism = 1  # the examples already run in parallel
    # All sizes are fixed. Deleting an iterator with autotuning waits, with the GIL held, up to 10 s for its thread.
    tuning.autotune.enabled = False
    batches = _iterate(dataset.with_options(tuning))
    _open_iterators.add(batches)
    return batches


# tf.data's threads call Python. A thread that calls into Python during interpreter shutdown is killed, and the iterator
# waiting for it deadlocks. So open iterators are closed at exit, and an exception does not keep its iterator alive.
def _iterate(dataset: tf.data.Dataset) -> Generator[Batch, None, None]:
    failure: BaseException | None = None
    iterator = iter(dataset)
    while failure is None:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            failure = error
        else:
            yield batch
    del iterator
    failure.__context__ = None
    raise failure.with_traceback(None)


_open_iterators: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _close_iterators() -> None:
    for batches in list(_open_iterators):
        with contextlib.suppress(ValueError):  # another thread is reading from it
            batches.close()


def _usable_cores() -> int:
    # Cores of this process (containers, taskset) where the system reports them; macOS does not.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
