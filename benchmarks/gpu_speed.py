"""Speed of training and inference in one precision at several batch sizes, with the GPU's idle time.

    python benchmarks/gpu_speed.py --precision mixed_bfloat16 --json speed.json

Random images and weights: ResNet-50-FPN at 800 x 1333 (a canvas of 800 x 1344) unless options say otherwise. Prints per
batch size: images/s, milliseconds per batch (median), the rate of arithmetic as a share of that of a large matrix
product in the same precision, the share of the time in which no kernel runs on the GPU (the kernels' time is from
TensorFlow's profiler, which slows the host down, the whole time is without it), the kernels that take the longest, and
peak memory of the GPU. gpu_peer.py measures torchvision in the same way. tf32 is
float32 whose products and convolutions use TF32, as TensorFlow does by default on Ampere and later. Without a GPU the
CPU is measured, without idle time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from measuring import float_operations
from random_batch import random_batch

from frcnn.config import Config, load_config
from frcnn.data.batch import Batch
from frcnn.data.plan import canvases
from frcnn.distributed import World
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.per_shape import PerShape
from frcnn.training.optimizer import build_optimizer
from frcnn.training.step import build_train_step

CLASSES, OBJECTS, WARM_UP = 80, 8, 3
TOP_KERNELS = 12


def make_batch(config: Config, size: int) -> Batch:
    """Random images of the largest canvas with ``OBJECTS`` boxes each."""
    height, width = max(canvases(config.image), key=lambda canvas: canvas[0] * canvas[1])
    return random_batch(size, height, width, OBJECTS, CLASSES)


def training_program(step: Callable[..., tf.Tensor], batch: Batch) -> Callable[[], object]:
    """Starts a step and waits for the report of the one before, as the training loop does."""
    thread, unread = ThreadPoolExecutor(1), deque()
    with tf.device("CPU:0"):
        number, flags = tf.constant(0), tf.zeros([2])

    def start() -> None:
        unread.append(thread.submit(step(batch, number, flags).numpy))
        if len(unread) > 1:
            unread.popleft().result()

    return start


def inference_program(detect: Callable[..., Sequence[tf.Tensor]], batch: Batch) -> Callable[[], object]:
    """Detections of a batch, copied to the host."""
    with tf.device("CPU:0"):
        sizes = tf.identity(batch.image_sizes)
    return lambda: [tensor.numpy() for tensor in detect(batch.images, sizes, sizes)]


def arithmetic(task: str, model: FasterRCNN, batch: Batch) -> float:
    """Operations of one call, multiplications and additions counted separately."""

    @tf.function
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.add_n(list(model.compute_losses(batch, tf.constant([0, 0])).values()))
        return tape.gradient(loss, model.trainable_variables)

    @tf.function
    def detections() -> Sequence[tf.Tensor]:
        return model.detect(batch.images, batch.image_sizes, batch.original_sizes)

    return float_operations(gradients if task == "training" else detections)


def measure(program: Callable[[], object], steps: int) -> dict[str, Any]:
    """Median duration, idle share and peak memory of a program."""
    for _ in range(WARM_UP):
        program()
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if gpu:
        tf.config.experimental.reset_memory_stats("GPU:0")
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        program()
        times.append(time.perf_counter() - start)
    memory = tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpu else 1024 * _max_resident()
    space = profile(program, steps) if gpu else None
    return {
        "milliseconds": 1e3 * statistics.median(times),
        "gpu_idle": idle_share(gpu_intervals(space), steps, statistics.median(times)) if space else None,
        "kernels": top_kernels(space, steps) if space else [],
        "memory_mebibytes": memory / 2**20,
    }


def _max_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def profile(program: Callable[[], object], steps: int) -> Any:
    """What TensorFlow's profiler records of a program, as an ``XSpace``."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            program()
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        for file in Path(folder).rglob("*.xplane.pb"):
            space.MergeFromString(file.read_bytes())
    return space


def gpu_intervals(space: Any) -> list[tuple[int, int]]:
    """Start and end, in picoseconds, of everything that ran on the streams of the first GPU."""
    return [
        (1000 * line.timestamp_ns + event.offset_ps, 1000 * line.timestamp_ns + event.offset_ps + event.duration_ps)
        for line in _streams(space)[1]
        for event in line.events
    ]


def top_kernels(space: Any, steps: int) -> list[dict[str, Any]]:
    """Kernels and copies by their time in one call of the program: name, milliseconds, launches; the sum first."""
    names, streams = _streams(space)
    picoseconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in (event for line in streams for event in line.events):
        name = names[event.metadata_id].name[:80]
        picoseconds[name] += event.duration_ps
        launches[name] += 1
    rows = [("all", sum(picoseconds.values()), sum(launches.values()))]
    rows += [(name, total, launches[name]) for name, total in picoseconds.most_common(TOP_KERNELS)]
    return [
        {"name": name, "milliseconds": total / steps / 1e9, "launches": count / steps} for name, total, count in rows
    ]


def _streams(space: Any) -> tuple[Any, list[Any]]:
    """The names of events and the streams of the first GPU; other lines group the same events by operation."""
    for plane in space.planes:
        if plane.name.startswith("/device:GPU:0"):
            return plane.event_metadata, [line for line in plane.lines if line.name.startswith("Stream")]
    return {}, []


def idle_share(intervals: Iterable[tuple[int, int]], calls: int, seconds: float) -> float | None:
    """Share of a call's ``seconds`` that no interval covers, where ``calls`` made all of them; None without any."""
    ordered = sorted(intervals)
    if not ordered:
        return None
    busy, end = 0, ordered[0][0]
    for start, stop in ordered:
        busy += max(0, stop - max(start, end))
        end = max(end, stop)
    return max(0.0, 1 - busy / 1e12 / calls / seconds)


def matrix_product_rate(precision: str, size: int, steps: int) -> float:
    """Operations per second of a large matrix product in the precision."""
    dtype = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}.get(precision, tf.float32)
    factor = tf.cast(tf.random.stateless_normal([size, size], [1, 2]), dtype)
    product = tf.function(lambda: tf.reduce_max(factor @ factor))
    return 2.0 * size**3 / (measure(lambda: product().numpy(), steps)["milliseconds"] / 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "tf32", "mixed_bfloat16", "mixed_float16"), required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--product", type=int, default=8192, help="side of the matrices of the reference product")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    tf.config.experimental.enable_tensor_float_32_execution(arguments.precision == "tf32")
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    policy = "float32" if arguments.precision == "tf32" else arguments.precision
    overrides = [f"training.precision={policy}", "backbone.norm=frozen_bn", "backbone.freeze=2", *arguments.overrides]
    config = load_config(overrides=overrides)
    peak = matrix_product_rate(arguments.precision, arguments.product, arguments.steps)
    print(f"{arguments.precision}: matrix product {peak / 1e12:.1f} TFLOP/s", flush=True)
    results: dict[str, Any] = {"matrix_product_flops": peak, "training": [], "inference": []}
    for task in ("training", "inference"):
        for row in measure_task(task, config, arguments.batch_sizes, arguments.steps, peak):
            results[task].append(row)
            print(
                f"{task}, {json.dumps({name: value for name, value in row.items() if name != 'kernels'})}", flush=True
            )
            for kernel in row.get("kernels", []):
                print(f"  {kernel['milliseconds']:8.3f} ms {kernel['launches']:7.1f} x {kernel['name']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def measure_task(task: str, config: Config, sizes: Sequence[int], steps: int, peak: float) -> Iterator[dict[str, Any]]:
    """A row of the report per batch size, up to the first whose memory does not suffice, which has an ``error``."""
    model = build_model(CLASSES, config)
    per_image = arithmetic(task, model, make_batch(config, 1))
    if task == "training":
        step = build_train_step(model, build_optimizer(config, 1000, model.trainable_variables), config, World())
    else:
        model.fold_batch_norm()  # as after loading a model folder
        detect = PerShape(model.detect)
    for size in sizes:
        batch = make_batch(config, size)
        program = training_program(step, batch) if task == "training" else inference_program(detect, batch)
        try:
            row = {"batch": size, **measure(program, steps)}
        except tf.errors.ResourceExhaustedError:
            yield {"batch": size, "error": "out of memory"}
            break
        seconds = row["milliseconds"] / 1e3
        yield {**row, "images_per_second": size / seconds, "share_of_peak": size * per_image / seconds / peak}


if __name__ == "__main__":
    main()
