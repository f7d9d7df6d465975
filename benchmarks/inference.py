"""Time of inference, compared with the machine's peak and, with --peer, with torchvision.

    python benchmarks/inference.py --config configs/torchvision_r50_fpn.yaml --peer [--batch 2] [--profile]
    python benchmarks/inference.py --config … --peer training.precision=mixed_bfloat16

Random images of one canvas and random weights. Prints seconds a call (medians of runs in turn), GFLOP/s beside those of
a large matrix product and a large convolution on the same threads, and the peak memory of each side, which is measured
in a process of its own. With --peer, torchvision's Faster R-CNN of the same layers, in channels-last format and under
autocast for bfloat16, detects in the same images; it needs the extra "bench". --profile prints the ten operation types
that take the longest. Values need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if "--peer" in sys.argv:
    import torchvision_peer

import tensorflow as tf
from measuring import (
    PEAK_SIZE,
    alternate,
    float_operations,
    memory_in_a_process_of_its_own,
    peak_memory_mib,
    peak_programs,
    peak_rates,
    print_results,
    print_top_operations,
    top_operations,
    warn_of_spread,
)
from random_batch import random_batch

from frcnn.config import Config, load_config
from frcnn.data.batch import Batch
from frcnn.modeling.faster_rcnn import build_model

CLASSES = 90
CANVAS = (800, 1344)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--canvas", type=int, nargs=2, default=CANVAS, help="height and width, multiples of 32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak-size", type=int, default=PEAK_SIZE, help="rows of the matrices of the peak")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", choices=("ours", "torchvision"), help="print the peak memory of one side")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    config = load_config(arguments.config, arguments.overrides)
    batch = random_batch(arguments.batch, *arguments.canvas)
    if arguments.only:
        run = peer(config, batch, arguments.threads) if arguments.only == "torchvision" else detector(config, batch)[0]
        run()
        run()
        print(json.dumps({"peak memory MiB": peak_memory_mib()}))
        return
    results, run = measure(config, batch, arguments)
    print_results(results)
    if arguments.profile:
        print_top_operations(top_operations(run))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def detector(config: Config, batch: Batch) -> tuple[Callable[[], object], float]:
    """A call of the detector, with batch norm folded as after loading a model folder, and its FLOPs."""
    model = build_model(CLASSES, config)
    model.fold_batch_norm()
    detect = tf.function(model.detect)
    inputs = (batch.images, batch.image_sizes, batch.original_sizes)
    return lambda: [tensor.numpy() for tensor in detect(*inputs)], float_operations(detect, *inputs)


def peer(config: Config, batch: Batch, threads: int) -> Callable[[], object]:
    torchvision_peer.torch.set_num_threads(threads)
    return torchvision_peer.inference(config, torchvision_peer.convert(batch)[0], CLASSES)


def measure(config: Config, batch: Batch, arguments: Any) -> tuple[dict[str, Any], Callable[[], object]]:
    run, flops = detector(config, batch)
    limits = peak_programs(config.training.precision, arguments.peak_size)
    programs = {"ours": run, **{name: program for name, (program, _) in limits.items()}}
    if arguments.peer:
        programs["torchvision"] = peer(config, batch, arguments.threads)
    times = alternate(programs, arguments.rounds)
    rates = peak_rates(times, limits)
    for warning in warn_of_spread(times):
        print(warning, file=sys.stderr)
    seconds = times["ours"].median
    results: dict[str, Any] = {
        "precision": config.training.precision,
        "images": batch.images.shape[0],
        "canvas": " x ".join(map(str, batch.images.shape[1:3])),
        "seconds": seconds,
        "GFLOP": flops / 1e9,
        "GFLOP/s": flops / seconds / 1e9,
        **{f"GFLOP/s of a {name}": rates[name] / 1e9 for name in limits},
        "share of the larger": flops / seconds / rates["peak"],
        "largest spread of the times": max(each.spread for each in times.values()),
        "peak memory MiB": memory_in_a_process_of_its_own("ours"),
    }
    if arguments.peer:
        results["torchvision seconds"] = times["torchvision"].median
        results["torchvision's time in ours"] = times["torchvision"].median / seconds
        results["torchvision peak memory MiB"] = memory_in_a_process_of_its_own("torchvision")
    return results, run


if __name__ == "__main__":
    main()
