"""Throughput of the input pipeline and CPU time of its stages.

    python benchmarks/input_pipeline.py --data ../shared/data/bccd --json input.json

Prints images/s and CPU time of the training pipeline, of decoding alone (tf.data with TensorFlow's libjpeg-turbo,
without Python) and of a plain loop of Pillow and NumPy over the same images at the same size; the pipeline's rate as a
share of decoding alone, and the CPU time of each stage; with data.reduced_decode=true, also how much it changes the
pixels. CPU times are less sensitive to other load than rates, which are valid only on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image

from frcnn import ops
from frcnn.config import Config, load_config
from frcnn.data.coco import ImageRecord, Index, find_split, load_index
from frcnn.data.decode import decode_without_copy
from frcnn.data.pipeline import canvases, training_batches
from frcnn.data.plan import canvas_number
from frcnn.data.transforms import (
    change_colors,
    compute_geometry,
    decode_reduction,
    sample_augmentation,
    transform_boxes,
)

DECODE_ONLY = "decoding alone"
BATCH = 4


class Rate(NamedTuple):
    """Images per second of wall time, and CPU milliseconds per image over all threads."""

    images_per_second: float
    cpu_milliseconds: float


def measure(batches: Iterator[int], seconds: float) -> Rate:
    """Rate of an iterator that yields the number of images in each batch."""
    for _ in range(4):
        next(batches)
    clock, cpu, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - clock < seconds:
        images += next(batches)
    return Rate(images / (time.perf_counter() - clock), 1e3 * (time.process_time() - cpu) / images)


def pipeline_batches(index: Index, options: Config, workers: int) -> Iterator[int]:
    data = options.data.model_copy(update={"workers": workers})
    for batch in training_batches(index, options.model_copy(update={"data": data})):
        yield int(batch.images.shape[0])


def decoded_batches(index: Index, options: Config, workers: int) -> Iterator[int]:
    """Reading and decoding alone, in tf.data's threads."""

    def decode(path: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        return tf.shape(pixels)[0]

    files = tf.data.Dataset.from_tensor_slices([str(record.path) for record in index.images]).repeat()
    tuning = tf.data.Options()
    tuning.threading.private_threadpool_size = workers
    tuning.threading.max_intra_op_parallelism = 1
    tuning.autotune.enabled = False
    heights = files.map(decode, num_parallel_calls=workers).batch(BATCH).prefetch(2).with_options(tuning)
    for batch in heights:
        yield int(batch.shape[0])


def plain_batches(index: Index, options: Config, threads: int) -> Iterator[int]:
    """The same work with Pillow and NumPy alone: decode, flip, resize and pad."""

    def load(record: ImageRecord) -> np.ndarray:
        with Image.open(record.path) as file:
            flipped = file.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        size = (record.height, record.width)
        canvas = canvases(options.image)[canvas_number(*size, options.image)]
        height, width = compute_geometry(
            *size, options.image, sample_augmentation(options, 0, record.image_id), canvas
        ).resized
        padded = np.zeros((*canvas, 3), np.uint8)
        padded[:height, :width] = flipped.resize((width, height), Image.Resampling.BILINEAR)
        return padded

    with ThreadPoolExecutor(threads) as pool:
        while True:
            for start in range(0, len(index.images), 4 * threads):
                yield len(list(pool.map(load, index.images[start : start + 4 * threads])))


def stage_times(index: Index, options: Config, count: int) -> dict[str, float]:
    """CPU milliseconds per image of each stage, one image at a time."""
    times: dict[str, float] = defaultdict(float)
    image = options.image

    def timed(stage: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        result = function(*arguments, **named)
        times[stage] += 1e3 * (time.process_time() - start) / count
        return result

    with tf.device("CPU:0"):
        for position in np.linspace(0, len(index.images) - 1, count).astype(int):
            record = index.images[position]
            size = (record.height, record.width)
            canvas = canvases(image)[canvas_number(*size, image)]
            augmentation = timed("sample augmentation", sample_augmentation, options, 0, record.image_id)
            geometry = compute_geometry(*size, image, augmentation, canvas)
            reduction = decode_reduction(size, geometry, augmentation)
            encoded = timed("read", record.path.read_bytes)
            decoded = timed(
                "check and decode", decode_without_copy, encoded, options.data.max_pixels, reduction=reduction
            )
            timed("boxes", transform_boxes, record.boxes, size, augmentation, geometry)
            pixels = timed("colors", change_colors, decoded.pixels, augmentation.colors)
            whole = pixels.shape[:2] == size
            timed(
                "flip, resize, crop and pad",
                ops.resize_to_canvas,
                tf.convert_to_tensor(pixels),
                ops.Placement(*map(tf.constant, (geometry.resized, geometry.offset, canvas))),
                method=image.resize,
                flips=tf.constant([augmentation.vertical_flip, augmentation.horizontal_flip]),
                extent=tf.constant(np.float32(size) / (1 if whole else reduction)),
                reverse_channels=image.channel_order == "bgr",
                kernel=options.ops.kernel,
            )
    return dict(times)


def mean_pixel_difference(index: Index, options: Config, batches: int = 8) -> float:
    """Mean absolute difference that decoding at a reduced size makes to the pixels of training images, of 255."""
    whole = options.model_copy(update={"data": options.data.model_copy(update={"reduced_decode": False})})
    differences = []
    for reduced, full in itertools.islice(
        zip(training_batches(index, options), training_batches(index, whole), strict=True), batches
    ):
        for one, other, (height, width) in zip(reduced.images, full.images, reduced.image_sizes.numpy(), strict=True):
            difference = np.abs(one.numpy().astype(int) - other.numpy())
            differences.append(difference[:height, :width].mean())
    return float(np.mean(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="COCO folder")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="options of the run, such as image.min_size=[800]"
    )
    arguments = parser.parse_args()
    defaults = ["image.min_size=[320]", "image.max_size=533", "training.batch_size=4"]
    options = load_config(overrides=[f"data.root={arguments.data}", *defaults, *arguments.overrides])
    index = load_index(*find_split(options.data, "train"))
    threads = options.data.workers or os.cpu_count() or 1

    rates: dict[str, Rate] = {}
    programs = {"pipeline": pipeline_batches, DECODE_ONLY: decoded_batches, "Pillow and NumPy": plain_batches}
    for workers in sorted({1, threads}):
        for name, batches in programs.items():
            rates[f"{name}, {workers} threads"] = measure(batches(index, options, workers), arguments.seconds)
    stage_times(index, options, count=3)  # the first calls trace the operations
    stages = stage_times(index, options, min(len(index.images), 100))

    print(f"{len(index.images)} images of {arguments.data} at image.min_size={list(options.image.min_size)}")
    for name, rate in rates.items():
        print(f"  {name:<28} {rate.images_per_second:8.1f} images/s {rate.cpu_milliseconds:8.2f} ms of CPU per image")
    shares = {}
    for workers in sorted({1, threads}):
        pipeline, decoding = (rates[f"{name}, {workers} threads"] for name in ("pipeline", DECODE_ONLY))
        shares[workers] = pipeline.images_per_second / decoding.images_per_second
        print(
            f"  the pipeline has {shares[workers]:.2f} of the rate of decoding alone with {workers} threads, at "
            f"{pipeline.cpu_milliseconds / decoding.cpu_milliseconds:.2f} times its CPU time"
        )
    print("CPU milliseconds per image by stage, outside tf.data")
    for name, milliseconds in stages.items():
        print(f"  {name:<28} {milliseconds:8.2f}  {milliseconds / sum(stages.values()):.0%}")
    difference = mean_pixel_difference(index, options) if options.data.reduced_decode else None
    if difference is not None:
        print(f"decoding at a reduced size changes pixels by {difference:.2f} of 255 on average")
    if arguments.json:
        figures = {
            "rates": {name: rate._asdict() for name, rate in rates.items()},
            "share_of_decoding": shares,
            "stage_milliseconds": stages,
            "reduced_decode_difference": difference,
        }
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
