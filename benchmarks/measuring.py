"""What benchmarks of whole programs share: runs in turn, the machine's peak, FLOPs, memory, time by operation."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.profiler.model_analyzer import profile
from tensorflow.python.profiler.option_builder import ProfileOptionBuilder
from tensorflow.tsl.profiler.protobuf import xplane_pb2

WARM_UPS = 2
LARGE_SPREAD = 0.2
PEAK_SIZE = 3072
KERNEL_EVENT = re.compile(r"[^:\s]+:(?P<type>\w+)")  # of TensorFlow's profiler: node and operation type


class Times(NamedTuple):
    """Seconds of a program: the median, and the distance of the quartiles as a fraction of it."""

    median: float
    spread: float


def alternate(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time each program; they run in turn, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + WARM_UPS):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if number >= WARM_UPS:  # before, a program traces and warms up
                times[name].append(time.perf_counter() - start)
    return {name: _summarize(values) for name, values in times.items()}


def _summarize(values: list[float]) -> Times:
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median, median, median)
    return Times(median, (high - low) / median)


def peak_programs(precision: str, size: int = PEAK_SIZE) -> dict[str, tuple[Callable[[], object], float]]:
    """Programs that are limited by arithmetic, and their FLOPs: a product of ``size`` x ``size`` matrices and a 3x3
    convolution of 256 channels with about a third of its arithmetic."""
    dtype = tf.float32 if precision == "float32" else tf.bfloat16
    factor = tf.cast(tf.random.stateless_normal([size, size], [1, 2]), dtype)
    side = max(1, round((size**3 / (3 * 9 * 256 * 256)) ** 0.5))
    image = tf.cast(tf.random.stateless_normal([1, side, side, 256], [3, 4]), dtype)
    kernel = tf.cast(tf.random.stateless_normal([3, 3, 256, 256], [5, 6]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(factor @ factor, tf.float32)))
    convolution = tf.function(lambda: tf.reduce_sum(tf.cast(tf.nn.conv2d(image, kernel, 1, "SAME"), tf.float32)))
    return {
        "matrix product": (product, 2.0 * size**3),
        "convolution": (convolution, 2.0 * side**2 * 9 * 256 * 256),
    }


def peak_rates(times: dict[str, Times], programs: dict[str, tuple[Callable[[], object], float]]) -> dict[str, float]:
    """FLOP/s of the programs of :func:`peak_programs`, and ``peak``, the larger of the two."""
    rates = {name: flops / times[name].median for name, (_, flops) in programs.items()}
    return {**rates, "peak": max(rates.values())}


def warn_of_spread(times: dict[str, Times]) -> list[str]:
    """A sentence for each program whose times vary so much that its figures mean little."""
    return [
        f"warning: the times of {name} vary by {100 * each.spread:.0f} % between the quartiles; measure on an idle "
        "machine"
        for name, each in times.items()
        if each.spread > LARGE_SPREAD
    ]


def float_operations(function: Any, *arguments: Any) -> float:
    """Multiplications and additions of the convolutions and matrix products of one call of a ``tf.function``."""
    graph = function.get_concrete_function(*arguments).graph
    options = ProfileOptionBuilder(ProfileOptionBuilder.float_operation()).with_empty_output().build()
    return float(profile(graph, options=options).total_float_ops)


def top_operations(program: Callable[[], object], rows: int = 10) -> list[tuple[str, float, int]]:
    """Operation types by the time that their kernels take in one call, as ``(type, seconds, calls)``, largest first.

    Kernels of several threads overlap, so the sum can exceed the time of the call.
    """
    for _ in range(WARM_UPS):
        program()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            program()
        finally:
            tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            kernel = KERNEL_EVENT.fullmatch(plane.event_metadata[event.metadata_id].name)
            if kernel:
                seconds[kernel["type"]] += event.duration_ps / 1e12
                calls[kernel["type"]] += 1
    return [(kind, total, calls[kind]) for kind, total in seconds.most_common(rows)]


def print_top_operations(operations: Sequence[tuple[str, float, int]]) -> None:
    print("\n| operation | ms | calls |\n|---|---|---|")
    for kind, seconds, calls in operations:
        print(f"| {kind} | {1e3 * seconds:.1f} | {calls} |")


def peak_memory_mib() -> float:
    """Largest memory of this process so far; ``getrusage`` would include that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def memory_in_a_process_of_its_own(side: str) -> float:
    """Peak memory, MiB, of this script called with the same arguments and ``--only SIDE``, which prints it."""
    command = [sys.executable, *sys.argv, "--only", side]
    last = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    return float(json.loads(last)["peak memory MiB"])


def print_results(results: dict[str, Any]) -> None:
    for name, value in results.items():
        print(f"{name:<38}{value:10.2f}" if isinstance(value, float) else f"{name:<38}{value:>10}")
