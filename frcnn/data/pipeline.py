"""Index + transforms -> tf.data batches of a few static shapes.

``plan.py`` says which images make up a step and ``transforms.py`` what happens to each; both are functions of (seed, epoch,
image), so that step s of a resumed run is step s of an unbroken one. Here they are put into threads.
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
from frcnn.data.annotations import few
from frcnn.data.batch import Batch
from frcnn.data.coco import ImageRecord, Index
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.data.plan import Plan, batches_per_epoch, canvas_number, canvas_numbers, canvases, plan_epoch, plan_inference
from frcnn.data.transforms import (
    Changes,
    change_pixels,
    draw_changes,
    place,
    resize_bilinear,
    resize_pillow,
    to_canvas,
    transform_boxes,
)
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
MOST_WORKERS = 16  # by default: each holds a canvas of some 13 MB, and takes its turn at the interpreter that the training loop needs too


def ground_truth_slots(index: Index) -> int:
    """G of every batch of the index: its largest number of boxes in an image, rounded up to a multiple of 8."""
    most = max((len(record.labels) for record in index.images), default=0)
    return max(-(-most // SLOT_MULTIPLE), 1) * SLOT_MULTIPLE


def steps_per_epoch(index: Index, options: config.Config) -> int:
    """Training steps of every epoch, the same on every rank."""
    records = _training_records(index, options)
    numbers = canvas_numbers(records, options.image)
    return batches_per_epoch(numbers, canvases(options.image), options.training.batch_size)


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
    """Endless batches of augmented examples, from global step ``start_step`` on; step s is the same however it is reached.

    Args:
        index: the training split.
        options: the run; ``training.batch_size`` is over all ranks.
        rank: this process's number, of ``size``.
        start_step: ``epoch * steps_per_epoch + step in epoch``.
        unreadable_images: where unreadable images are counted; such an image is a blank one without objects.
        epoch_steps: steps of an epoch, where processes with data of their own have more than this index; it starts again then.

    Returns:
        Iterator of :class:`Batch` with ``batch_size // size`` rows and G = :func:`ground_truth_slots`; canvases vary between batches.

    Raises:
        UserError: no image to train on, or a batch size that the ranks cannot share evenly.
    """
    if options.training.batch_size % size:
        raise UserError(
            f"option 'training.batch_size' is {options.training.batch_size}, which {size} processes cannot share evenly; "
            f"give a multiple of {size}"
        )
    records = _training_records(index, options)
    sizes = canvases(options.image)
    numbers = canvas_numbers(records, options.image)
    share = options.training.batch_size // size
    steps = batches_per_epoch(numbers, sizes, options.training.batch_size)

    @functools.lru_cache(maxsize=1)
    def plan(epoch: int) -> Plan:
        return plan_epoch(numbers, sizes, options.training.batch_size, options.seed, epoch)

    def rows(step: int) -> np.ndarray:
        epoch, batch = divmod(int(step), epoch_steps or steps)
        batch %= steps
        positions = plan(epoch).positions[batch, rank * share : (rank + 1) * share]
        return _rows(positions, epoch, sizes[plan(epoch).canvases[batch]])

    def changes(record: ImageRecord, epoch: int) -> Changes:
        return draw_changes(options, epoch, record.image_id)

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    return _batches(dataset, rows, share, records, options, changes, unreadable_images)


def inference_batches(
    index: Index,
    options: config.Config,
    batch_size: int,
    rank: int = 0,
    size: int = 1,
    unreadable_images: UnreadableImages | None = None,
) -> Iterator[Batch]:
    """Every image exactly once over the ranks, unchanged but for the resize, in batches of one canvas each.

    The last batches of a canvas are filled with blank rows of image id -1. Ranks may differ by one batch.
    """
    sizes = canvases(options.image)
    plan = plan_inference(canvas_numbers(index, options.image), sizes, batch_size, rank, size)

    def rows(step: int) -> np.ndarray:
        return _rows(plan.positions[step], 0, sizes[plan.canvases[step]])

    def changes(record: ImageRecord, epoch: int) -> Changes:
        return Changes(options.image.min_size[-1])

    dataset = tf.data.Dataset.range(len(plan.positions))
    return _batches(dataset, rows, batch_size, index, options, changes, unreadable_images)


def prepare_image(pixels: np.ndarray, image: config.Image) -> tuple[np.ndarray, np.ndarray]:
    """One picture ``[h, w, 3]`` uint8 RGB as inference sees it: canvas ``[H, W, 3]`` float32 and image size ``[2]`` int32."""
    height, width = pixels.shape[:2]
    canvas = canvases(image)[canvas_number(height, width, image)]
    geometry = place(height, width, image, Changes(image.min_size[-1]), canvas)
    if image.resize == "pillow":
        pixels = resize_pillow(pixels, geometry.resized)
    with tf.device("CPU:0"):
        prepared = _onto_canvas(
            tf.convert_to_tensor(pixels), tf.constant(geometry.resized), tf.constant(geometry.offset), canvas, image
        )
    return prepared.numpy(), np.array(geometry.visible, np.int32)


def _training_records(index: Index, options: config.Config) -> Index:
    """The index without images that are not trained on. Raises UserError where there is no object at all."""
    with_objects = tuple(record for record in index.images if not record.crowd.all())
    if not with_objects:
        reasons = few(problem.reason for problem in index.problems) or "there are no annotations but crowds"
        raise UserError(f"no image in {index.source} has an object to train on: {reasons}")
    return index if options.data.keep_images_without_objects else dataclasses.replace(index, images=with_objects)


def _rows(positions: np.ndarray, epoch: int, canvas: tuple[int, int]) -> np.ndarray:
    """What the threads need to know of each example of a batch: ``[b, 4]`` int64 of position, epoch, canvas height, canvas width."""
    return np.stack([positions, *(np.full_like(positions, value) for value in (epoch, *canvas))], axis=1)


def _batches(
    steps: tf.data.Dataset,
    rows: Callable[[int], np.ndarray],
    batch_size: int,
    index: Index,
    options: config.Config,
    changes: Callable[[ImageRecord, int], Changes],
    unreadable_images: UnreadableImages | None,
) -> Iterator[Batch]:
    """Batches from a dataset of step numbers and the function that says what is in a step."""
    if unreadable_images is None:
        unreadable_images = UnreadableImages(index, max_share=1.0)
    slots = ground_truth_slots(index)
    workers = options.data.workers or min(_usable_cores(), MOST_WORKERS)

    def rows_of(step: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(rows, [step], tf.int64, stateful=False), [batch_size, 4])

    def example(row: tf.Tensor) -> Batch:
        load = functools.partial(
            _load, index=index, image=options.image, slots=slots, changes=changes, unreadable_images=unreadable_images
        )
        loaded = tf.numpy_function(
            load, [row], [tf.uint8, tf.int32, tf.float32, tf.int32, tf.bool, tf.int64], stateful=False
        )
        shapes = ([None, None, 3], [3, 2], [slots, 4], [slots], [slots], [3])
        pixels, geometry, boxes, labels, crowd, numbers = (
            tf.ensure_shape(t, shape) for t, shape in zip(loaded, shapes, strict=True)
        )
        picture = _onto_canvas(pixels, geometry[0], geometry[1], tf.cast(row[2:], tf.int32), options.image)
        return Batch(picture, geometry[2], tf.cast(numbers[1:], tf.int32), boxes, labels, crowd, numbers[0])

    dataset = steps.map(rows_of).unbatch().map(example, num_parallel_calls=workers, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(PREFETCHED_BATCHES)
    threads = tf.data.Options()
    threads.threading.private_threadpool_size = workers
    threads.threading.max_intra_op_parallelism = 1  # the examples are parallel already
    batches = _iterate(dataset.with_options(threads))
    _running.add(batches)
    return batches


# tf.data's threads call Python. One that does so while the interpreter ends is stopped there and then, and the iterator that waits for
# it would wait for ever; so whatever is still running is ended before, and an error does not keep the iterator that it came from.
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


_running: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _end_running() -> None:
    for batches in list(_running):
        with contextlib.suppress(ValueError):  # it is being read by another thread at this moment
            batches.close()


def _usable_cores() -> int:
    # Of this process, where the system tells (containers, taskset); macOS does not.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(
    row: np.ndarray,
    *,
    index: Index,
    image: config.Image,
    slots: int,
    changes: Callable[[ImageRecord, int], Changes],
    unreadable_images: UnreadableImages,
) -> tuple[np.ndarray, ...]:
    """The part of an example that runs in Python: decode, flips, boxes.

    Returns:
        pixels ``[h, w, 3]`` uint8, geometry ``[3, 2]`` int32 (resized, offset, visible), boxes ``[G, 4]``, labels ``[G]``,
        crowd ``[G]``, and ``[3]`` int64 of image id, height and width.
    """
    position, epoch, *canvas = row.tolist()
    boxes, labels, crowd = np.zeros((slots, 4), np.float32), np.zeros(slots, np.int32), np.zeros(slots, bool)
    if position < 0:
        return (
            _blank(image),
            np.array([canvas, (0, 0), canvas], np.int32),
            boxes,
            labels,
            crowd,
            np.array([-1, *canvas]),
        )
    record = index.images[position]
    change = changes(record, epoch)
    geometry = place(record.height, record.width, image, change, (canvas[0], canvas[1]))
    try:
        pixels = change_pixels(_decode(record), change)
    except UnreadableImage as error:
        unreadable_images.add(record.path, str(error))
        pixels = _blank(image)
    else:
        moved, kept = transform_boxes(record.boxes, (record.height, record.width), change, geometry)
        count = int(kept.sum())
        boxes[:count], labels[:count], crowd[:count] = moved[kept], record.labels[kept], record.crowd[kept]
    if image.resize == "pillow":
        pixels = resize_pillow(pixels, geometry.resized)
    numbers = np.array([record.image_id, record.height, record.width])
    return pixels, np.array(geometry, np.int32), boxes, labels, crowd, numbers


def _decode(record: ImageRecord) -> np.ndarray:
    pixels = decode_image(record.path)
    if pixels.shape[:2] != (record.height, record.width):
        raise UnreadableImage(
            f"{record.path} is {pixels.shape[1]} x {pixels.shape[0]} pixels (upright), "
            f"but its boxes were annotated on {record.width} x {record.height}"
        )
    return pixels


def _blank(image: config.Image) -> np.ndarray:
    """A single pixel of the mean colour, which the resize spreads over the picture."""
    mean = image.mean if image.channel_order == "rgb" else image.mean[::-1]
    return np.round(mean).clip(0, 255).astype(np.uint8).reshape(1, 1, 3)


def _onto_canvas(
    pixels: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, canvas: tf.Tensor, image: config.Image
) -> tf.Tensor:
    """Resize where Pillow did not do it already, crop, normalise and pad: the TensorFlow part of every picture's way."""
    if image.resize == "bilinear":
        pixels = resize_bilinear(pixels, resized)
    return to_canvas(pixels, offset, canvas, image)
