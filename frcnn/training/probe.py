"""The device of this machine, and the speed of training on it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.coco import Index
from frcnn.data.pipeline import training_batches
from frcnn.distributed import World
from frcnn.errors import UserError
from frcnn.gpus import management_library, read_gpus
from frcnn.modeling.faster_rcnn import build_model
from frcnn.training.numerics import configure_numerics
from frcnn.training.optimizer import build_optimizer
from frcnn.training.step import build_train_step
from frcnn.training.time_budget import Device

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_CPUS = ("avx512_bf16", "amx_bf16")
BFLOAT16_GPUS = (8, 0)  # compute capability, Ampere
FLAGS = 4  # that the trainer sends with a step
MIN_STEPS, MAX_STEPS = 3, 20
MIN_SECONDS, MAX_SECONDS = 5.0, 30.0  # of measured steps; one step may take longer
CONVOLUTION = ((4, 64, 64, 128), (3, 3, 128, 128))  # images and kernel, as in the pyramid of a small model
ROUNDS = 5
BFLOAT16_GAIN = 1.2  # in a convolution, from which on a training step, which has casts as well, is faster


def bfloat16_is_faster(clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether a convolution with its gradients is clearly faster in bfloat16 than in float32; takes a second or two.

    Not every CPU that has the instructions is: some have them without units that are faster.
    """
    programs = {dtype: _convolution(dtype) for dtype in (tf.float32, tf.bfloat16)}
    seconds: dict[tf.DType, list[float]] = {dtype: [] for dtype in programs}
    for number in range(1 + ROUNDS):  # in turns, so that a busy moment slows both
        for dtype, program in programs.items():
            start = clock()
            program()
            if number:  # the first call traces
                seconds[dtype].append(clock() - start)
    return statistics.median(seconds[tf.float32]) > BFLOAT16_GAIN * statistics.median(seconds[tf.bfloat16])


def _convolution(dtype: tf.DType) -> Callable[[], object]:
    images, kernel = (tf.cast(np.linspace(0, 1, math.prod(shape)).reshape(shape), dtype) for shape in CONVOLUTION)

    @tf.function
    def run() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = tf.nn.conv2d(images, kernel, 1, "SAME")
        return tape.gradient(outputs, [images, kernel])

    return run


def find_device(
    kind: str | None = None, cpuinfo: Path = CPUINFO, faster: Callable[[], bool] = bfloat16_is_faster
) -> Device:
    """The device that training would use, or the one of a kind, ``"cpu"`` or ``"gpu"``; GPUs are hidden for the CPU.

    Args:
        faster: whether a CPU that has instructions for bfloat16 is faster with them.

    Raises:
        UserError: a GPU is asked for, and TensorFlow finds none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "gpu" and not gpus:
        raise UserError("--device is gpu, but TensorFlow finds no GPU; frcnn doctor says why")
    if kind == "cpu" or not gpus:
        tf.config.set_visible_devices([], "GPU")
        try:
            words = set(cpuinfo.read_text(errors="replace").split())
        except OSError:
            words = set()
        bfloat16 = any(name in words for name in BFLOAT16_CPUS) and faster()
        return Device("cpu", bfloat16=bfloat16)
    with management_library() as library:
        memory = [gpu.memory_gib for gpu in read_gpus(library) if gpu.memory_gib]
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    return Device("gpu", bfloat16=capability >= BFLOAT16_GPUS, memory_gib=memory[0] if memory else None)


def measure_speed(index: Index, config: Config, clock: Callable[[], float] = time.perf_counter) -> float:
    """Training images per second of a configuration, from a few steps on the images; tracing does not count.

    Each step includes reading its batch. The weights are random: they do not change the time of a step.
    """
    world = World()
    world.init()  # GPUs take memory as it is needed, which can only be set before their first use
    configure_numerics(config)
    model = build_model(len(index.class_names), config)
    optimizer = build_optimizer(config, 1000, model.trainable_variables)
    step = build_train_step(model, optimizer, config, world)
    batches = training_batches(index, config)
    seconds: list[float] = []
    traced: set[tuple[int, ...]] = set()
    start = clock()
    while not _measured_enough(seconds):
        batch = next(batches)
        step(batch, tf.constant(len(traced)), tf.zeros([FLAGS])).numpy()
        now = clock()
        if (shape := tuple(batch.images.shape)) in traced:
            seconds.append(now - start)
        traced.add(shape)
        start = clock()
    return config.training.batch_size / statistics.median(seconds)


def _measured_enough(seconds: Sequence[float]) -> bool:
    total, count = sum(seconds), len(seconds)
    return total >= MAX_SECONDS or (count >= MIN_STEPS and (total >= MIN_SECONDS or count >= MAX_STEPS))
