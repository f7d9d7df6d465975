"""RoIAlign and NMS against torchvision and TensorFlow's own operations: one process, two threads, alternating runs.

    pip install tensorflow torch==2.14.1 torchvision==0.29.1     # the extra `bench`
    python benchmarks/ops.py --json ops.json

Prints medians of wall and CPU time, the ratios to the peers, and a lower bound. The bound of RoIAlign is memory
traffic: reading each touched feature pixel once and writing the result once, at the bandwidth measured in the same run.
The bound of NMS is the call of an empty graph.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Before TensorFlow: importing torch after it crashes.
import torch
import torchvision  # isort: split

import numpy as np
import tensorflow as tf
from ops_case import (
    CHANNELS,
    HEIGHT,
    MAP_SIZES,
    POOLED,
    STRIDES,
    WIDTH,
    levels_of,
    pooled_bytes,
    pyramid_bytes,
    random_boxes,
    touched_bytes,
)

from frcnn import ops

Runs = dict[str, Callable[[], object]]
Row = dict[str, float | str]


def measure(runs: Runs, rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each, run alternately so that noise affects all of them."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(t[0] for t in all_), statistics.median(t[1] for t in all_))
        for name, all_ in times.items()
    }


def bandwidth(rounds: int) -> tuple[float, float]:
    """Bytes per second read and written by the threads, for arrays larger than the caches."""
    source = torch.zeros(64 << 20, dtype=torch.float32)
    seconds = measure({"read": lambda: source.sum(), "write": lambda: source.fill_(1.0)}, rounds)
    return source.nbytes / seconds["read"][0], source.nbytes / seconds["write"][0]


def roi_align_rows(count: int, rounds: int, rates: tuple[float, float]) -> list[Row]:
    rng = np.random.default_rng(count)
    maps = [rng.normal(size=(1, height, width, CHANNELS)).astype(np.float32) for height, width in MAP_SIZES]
    boxes = random_boxes(rng, count)
    levels = levels_of(boxes)
    members = [np.flatnonzero(levels == level) for level in range(4)]
    tensors, box_image = [tf.constant(level) for level in maps], tf.zeros([count], tf.int32)
    small = [tf.cast(level, tf.bfloat16) for level in tensors]
    normal = tf.constant(boxes[:, [1, 0, 3, 2]] / np.float32([HEIGHT, WIDTH, HEIGHT, WIDTH]))
    upstream = tf.constant(rng.normal(size=(count, POOLED, POOLED, CHANNELS)).astype(np.float32))

    def ours(pyramid: list[tf.Tensor]) -> tf.Tensor:
        return ops.roi_align(
            pyramid,
            boxes,
            box_image,
            strides=STRIDES,
            output_size=POOLED,
            sampling_ratio=2,
            aligned=True,
            level_rule="torchvision",
            kernel="compiled",
        )

    def crop_and_resize(pyramid: list[tf.Tensor]) -> tf.Tensor:
        crops = [
            tf.image.crop_and_resize(
                level, tf.gather(normal, which), tf.zeros(len(which), tf.int32), [2 * POOLED, 2 * POOLED]
            )
            for level, which in zip(pyramid, members, strict=True)
        ]
        return tf.nn.avg_pool2d(tf.concat(crops, axis=0), 2, 2, "VALID")

    def with_gradient(pool: Callable[[list[tf.Tensor]], tf.Tensor]) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
        return lambda pyramid: [pool(pyramid), *tf.gradients(pool(pyramid), pyramid, upstream)]

    torch_maps = [torch.from_numpy(level.transpose(0, 3, 1, 2).copy()).requires_grad_() for level in maps]
    torch_rois = [
        torch.from_numpy(np.concatenate([np.zeros((len(which), 1), np.float32), boxes[which]], axis=1))
        for which in members
    ]
    torch_upstream = [torch.from_numpy(upstream.numpy()[which].transpose(0, 3, 1, 2).copy()) for which in members]

    def torch_pool() -> list[torch.Tensor]:
        return [
            torchvision.ops.roi_align(level, rois, POOLED, 1 / stride, 2, True)
            for level, rois, stride in zip(torch_maps, torch_rois, STRIDES, strict=True)
        ]

    def torch_forward() -> None:
        with torch.no_grad():
            torch_pool()

    graph = torch_pool()

    def torch_backward() -> None:
        torch.autograd.grad(graph, torch_maps, torch_upstream, retain_graph=True)

    our_forward, our_both = tf.function(ours), tf.function(with_gradient(ours))
    their_forward, their_both = tf.function(crop_and_resize), tf.function(with_gradient(crop_and_resize))
    our_backward = tf.function(lambda pyramid: tf.gradients(ours(pyramid), pyramid, upstream))
    times = measure(
        {
            "forward": lambda: our_forward(tensors),
            "crop": lambda: their_forward(tensors),
            "torch": torch_forward,
            "bfloat16": lambda: our_forward(small),
            "backward": lambda: our_backward(tensors),
            "torch backward": torch_backward,
            "both": lambda: our_both(tensors),
            "crop both": lambda: their_both(tensors),
        },
        rounds,
    )
    read, write, pooled = touched_bytes(boxes, levels), pyramid_bytes(), pooled_bytes(count)
    forward_floor, backward_floor = read / rates[0] + pooled / rates[1], pooled / rates[0] + write / rates[1]
    return [
        row(
            f"roi_align forward, {count} RoIs",
            times,
            "forward",
            {"torchvision": "torch", "crop_and_resize": "crop"},
            forward_floor,
        ),
        row(
            f"roi_align forward bfloat16, {count} RoIs", times, "bfloat16", {"torchvision": "torch"}, forward_floor / 2
        ),
        row(f"roi_align backward, {count} RoIs", times, "backward", {"torchvision": "torch backward"}, backward_floor),
        row(
            f"roi_align forward+backward, {count} RoIs",
            times,
            "both",
            {"crop_and_resize": "crop both"},
            forward_floor + backward_floor,
        ),
    ]


def row(
    name: str, times: dict[str, tuple[float, float]], ours: str, peers: dict[str, str], floor: float | None = None
) -> Row:
    wall, cpu = times[ours]
    result: Row = {"case": name, "wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3}
    for peer, key in peers.items():
        result[f"wall/{peer}"], result[f"cpu/{peer}"] = wall / times[key][0], cpu / times[key][1]
    if floor is not None:
        result["floor_ms"], result["wall/floor"] = floor * 1e3, wall / floor
    return result


def nms_row(count: int, rounds: int, max_outputs: int) -> Row:
    """Boxes that do not suppress each other: the largest number of comparisons."""
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 20000, (count, 2)).astype(np.float32)
    boxes, scores = np.concatenate([corner, corner + 40], axis=1), rng.uniform(size=count).astype(np.float32)
    ours = tf.function(
        lambda b, s: ops.nms(
            b, s, tf.zeros_like(s, tf.int32), iou_threshold=0.7, max_outputs=max_outputs, kernel="compiled"
        )
    )
    image = tf.function(lambda b, s: tf.image.non_max_suppression(b, s, max_outputs, 0.7))
    combined = tf.function(
        lambda b, s: tf.image.combined_non_max_suppression(b, s, max_outputs, max_outputs, 0.7, clip_boxes=False)
    )
    tensors, torches = (tf.constant(boxes), tf.constant(scores)), (torch.from_numpy(boxes), torch.from_numpy(scores))
    empty_graph = tf.function(lambda b, s: s)
    batch, classes = [tensor[None] for tensor in tensors], [tensor[None, :, None] for tensor in tensors]
    runs: Runs = {
        "ours": lambda: ours(*batch),
        "torch": lambda: torchvision.ops.nms(*torches, 0.7),
        "image": lambda: image(*tensors),
        "combined": lambda: combined(*classes),
        "empty": lambda: empty_graph(*batch),
    }
    peers = {"torchvision": "torch", "tf.image": "image", "combined": "combined"}
    times = measure(runs, rounds)
    name = f"nms, {count} boxes at 0.7, {'all' if max_outputs == count else max_outputs} kept"
    return row(name, times, "ours", peers, times["empty"][0])


def class_nms_row(dense: bool, rounds: int) -> Row:
    """1000 boxes with scores for 80 classes, 100 detections."""
    rng = np.random.default_rng(7)
    boxes = random_boxes(rng, 1000)
    scores = rng.uniform(0.05, 1, (1000, 80)).astype(np.float32)
    if not dense:
        scores[rng.uniform(size=scores.shape) > 0.072] = 0.01
    usable = np.where(scores > 0.05, scores, -np.inf).astype(np.float32).reshape(1, -1)
    repeated = tf.constant(np.repeat(boxes, 80, axis=0)[None])
    groups, usable_tensor = tf.constant(np.tile(np.arange(80, dtype=np.int32), 1000)[None]), tf.constant(usable)
    ours = tf.function(
        lambda: ops.nms(repeated, usable_tensor, groups, iou_threshold=0.5, max_outputs=100, kernel="compiled")
    )
    box_tensor, score_tensor = tf.constant(boxes[None, :, None]), tf.constant(scores[None])
    combined = tf.function(
        lambda b, s: tf.image.combined_non_max_suppression(b, s, 100, 100, 0.5, 0.05, clip_boxes=False)
    )
    chosen = np.flatnonzero(usable[0] > 0)
    torches = [
        torch.from_numpy(array)
        for array in (np.repeat(boxes, 80, axis=0)[chosen], usable[0, chosen], np.tile(np.arange(80), 1000)[chosen])
    ]
    runs: Runs = {
        "ours": ours,
        "torch": lambda: torchvision.ops.batched_nms(*torches, 0.5),
        "combined": lambda: combined(box_tensor, score_tensor),
    }
    name = f"nms, 1000 boxes x 80 classes at 0.5, {'dense' if dense else 'sparse'} ({len(chosen)} candidates), 100 kept"
    return row(name, measure(runs, rounds), "ours", {"torchvision": "torch", "combined": "combined"})


COLUMNS = {
    "case": ("case",),
    "wall, ms": ("wall_ms",),
    "CPU, ms": ("cpu_ms",),
    "wall / torchvision": ("wall/torchvision",),
    "CPU / torchvision": ("cpu/torchvision",),
    "wall / crop_and_resize or combined NMS": ("wall/crop_and_resize", "wall/combined"),
    "CPU / crop_and_resize or combined NMS": ("cpu/crop_and_resize", "cpu/combined"),
    "floor, ms": ("floor_ms",),
    "wall / floor": ("wall/floor",),
}


def print_table(rows: list[Row]) -> None:
    """Prints the table of docs/ops.md."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for result in rows:
        values = [next((result[key] for key in keys if key in result), "") for keys in COLUMNS.values()]
        print(f"| {' | '.join(f'{value:.3g}' if isinstance(value, float) else value for value in values)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    rates = bandwidth(arguments.rounds)
    print(f"memory: {rates[0] / 1e9:.0f} GB/s read, {rates[1] / 1e9:.0f} GB/s written, {arguments.threads} threads")
    rows: list[Row] = []
    for count in (512, 1000):
        rows += roi_align_rows(count, arguments.rounds, rates)
    for count in (2000, 4741, 8000):
        rows += [nms_row(count, arguments.rounds, count), nms_row(count, arguments.rounds, 1000)]
    rows += [class_nms_row(dense, arguments.rounds) for dense in (True, False)]
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"read": rates[0], "write": rates[1], "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
