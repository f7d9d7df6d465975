"""Time of a training step by phase, compared with the machine's peak and, with --peer, with torchvision.

    python benchmarks/train_step.py --config configs/bccd_r18_fpn.yaml data.root=bccd --json step.json
    python benchmarks/train_step.py --config configs/torchvision_r50_fpn.yaml --canvas 800 1344 --peer [--profile]

Prints milliseconds per step for input, forward, backward and update (medians of runs in turn; each is the difference of
two measured programs), images/s, the arithmetic rate of forward and backward beside that of a large matrix product and
a large convolution on the same threads, and the peak memory of each side, which is measured in a process of its own.
With --canvas, images and boxes are random and no dataset is needed; without, they are read from that of the options.

With --peer, torchvision's Faster R-CNN of the same layers, in channels-last format and under autocast for bfloat16,
trains on the same batch; it needs the extra "bench". --profile prints the ten operation types that take the longest.
Values need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
from frcnn.data.pipeline import training_batches
from frcnn.distributed import World
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.training.optimizer import build_optimizer
from frcnn.training.shard import load_splits
from frcnn.training.step import build_train_step

RANDOM_CLASSES = 90
STEPS_OF_RUN = 1000  # for the learning rate's schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--canvas", type=int, nargs=2, help="height and width of random images, multiples of 32")
    parser.add_argument("--batch", type=int, help="images a step; default: training.batch_size")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak-size", type=int, default=PEAK_SIZE, help="rows of the matrices of the peak")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", choices=("ours", "torchvision"), help="print the peak memory of one side")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as output:
        overrides = [*arguments.overrides, f"output={output}", "data.workers=1"]
        if arguments.batch:
            overrides.append(f"training.batch_size={arguments.batch}")
        config = load_config(arguments.config, overrides)
        case = load_case(config, arguments.canvas)
        if arguments.only:
            run = peer(case, arguments.threads) if arguments.only == "torchvision" else step_of(case)
            run()
            run()
            print(json.dumps({"peak memory MiB": peak_memory_mib()}))
            return
        results = measure(case, arguments)
        print_results(results)
        if arguments.profile:
            print_top_operations(top_operations(step_of(case)))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


class Case(NamedTuple):
    """What is trained: a model and one batch, and where further batches come from."""

    config: Config
    model: FasterRCNN
    batch: Batch
    classes: int
    next_batch: Callable[[], object] | None


def load_case(config: Config, canvas: list[int] | None) -> Case:
    """Random images of a canvas, or those of the dataset."""
    if canvas:
        batch = random_batch(config.training.batch_size, *canvas)
        return Case(config, build_model(RANDOM_CLASSES, config), batch, RANDOM_CLASSES, None)
    index, _ = load_splits(config, [])
    classes = len(index.class_names)
    batches = iter(training_batches(index, config))
    return Case(config, build_model(classes, config), next(batches), classes, lambda: next(batches))


def step_of(case: Case) -> Callable[[], object]:
    """One step of the training loop on a single process."""
    optimizer = build_optimizer(case.config, STEPS_OF_RUN, case.model.trainable_variables)
    step = build_train_step(case.model, optimizer, case.config, World())
    return lambda: step(case.batch, tf.constant(0), tf.zeros([2])).numpy()


def peer(case: Case, threads: int) -> Callable[[], object]:
    torchvision_peer.torch.set_num_threads(threads)
    images, targets = torchvision_peer.convert(case.batch)
    return torchvision_peer.training_step(case.config, images, targets, case.classes)


def measure(case: Case, arguments: Any) -> dict[str, Any]:
    config, model, batch = case.config, case.model, case.batch
    seed = tf.constant([0, 0])
    variables = model.trainable_variables

    @tf.function
    def forward() -> tf.Tensor:
        return tf.add_n(list(model.compute_losses(batch, seed).values()))

    @tf.function
    def forward_and_backward() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.add_n(list(model.compute_losses(batch, seed).values()))
        return tape.gradient(loss, variables)

    limits = peak_programs(config.training.precision, arguments.peak_size)
    programs: dict[str, Callable[[], object]] = {
        "forward": forward,
        "forward_and_backward": forward_and_backward,
        "step": step_of(case),
        **{name: program for name, (program, _) in limits.items()},
    }
    if case.next_batch:
        programs["input"] = case.next_batch
    if arguments.peer:
        programs["torchvision"] = peer(case, arguments.threads)
    times = alternate(programs, arguments.steps)
    for warning in warn_of_spread(times):
        print(warning, file=sys.stderr)
    seconds = {name: each.median for name, each in times.items()}
    flops = float_operations(forward_and_backward)
    rates = peak_rates(times, limits)
    rows = config.training.batch_size
    results: dict[str, Any] = {
        "precision": config.training.precision,
        "images a step": rows,
        "canvas": " x ".join(map(str, batch.images.shape[1:3])),
        "forward ms": 1e3 * seconds["forward"],
        "backward ms": 1e3 * (seconds["forward_and_backward"] - seconds["forward"]),
        "update ms": 1e3 * (seconds["step"] - seconds["forward_and_backward"]),
        "step ms": 1e3 * seconds["step"],
        "images/s, step alone": rows / seconds["step"],
        "GFLOP forward and backward": flops / 1e9,
        "GFLOP/s of the step": flops / seconds["step"] / 1e9,
        **{f"GFLOP/s of a {name}": rates[name] / 1e9 for name in limits},
        "share of the larger": flops / seconds["step"] / rates["peak"],
        "largest spread of the times": max(each.spread for each in times.values()),
        "peak memory MiB": memory_in_a_process_of_its_own("ours"),
    }
    if case.next_batch:
        results["input ms"] = 1e3 * seconds["input"]
        results["images/s, input and step in turn"] = rows / (seconds["step"] + seconds["input"])
    if arguments.peer:
        results["torchvision step ms"] = 1e3 * seconds["torchvision"]
        results["torchvision's time in ours"] = seconds["torchvision"] / seconds["step"]
        results["torchvision peak memory MiB"] = memory_in_a_process_of_its_own("torchvision")
    return results


if __name__ == "__main__":
    main()
