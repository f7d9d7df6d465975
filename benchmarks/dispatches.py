"""Operations that TensorFlow dispatches in a training step or an inference, after its graph optimizations, by type.

    python benchmarks/dispatches.py --config configs/torchvision_r50_fpn.yaml [--inference] [--json FILE] [KEY=VALUE …]

On a GPU each dispatch is a launch of some microseconds. Counted are the nodes of the graphs that the executor ran, but
for constants, arguments, results, identities, control-flow switches and reads of variables, which only pass on a
pointer; they are printed as a sum. The number does not depend on the canvas, so a small one is used, on the CPU, with
random weights.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from random_batch import random_batch
from tensorflow.python.eager import context

from frcnn.config import Config, load_config
from frcnn.distributed import World
from frcnn.modeling.faster_rcnn import build_model
from frcnn.training.optimizer import build_optimizer
from frcnn.training.step import build_train_step

CANVAS = (128, 128)
# Nodes that compute nothing: they pass on a pointer, or order others.
POINTERS = frozenset(
    (
        *("Const", "NoOp", "_Arg", "_Retval", "_DeviceArg", "_DeviceRetval", "Identity", "IdentityN", "ReadVariableOp"),
        *("Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond", "_Send", "_Recv", "_HostSend", "_HostRecv"),
    )
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--rows", type=int, default=30, help="operation types to print, the most frequent ones")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    types = executed(inference(config) if arguments.inference else training_step(config))
    dispatched = Counter({name: number for name, number in types.items() if name not in POINTERS})
    for name, number in dispatched.most_common(arguments.rows):
        print(f"{name:<34}{number:>6}")
    print(f"{'dispatched':<34}{dispatched.total():>6}")
    print(f"{'others (pointers, control)':<34}{types.total() - dispatched.total():>6}")
    if arguments.json:
        counts = {"dispatched": dispatched.total(), "nodes": types.total(), "types": dict(dispatched.most_common())}
        arguments.json.write_text(json.dumps(counts, indent=2) + "\n")


def training_step(config: Config) -> Callable[[], object]:
    """One step of the training loop on a single process."""
    model = build_model(3, config)
    optimizer = build_optimizer(config, 1000, model.trainable_variables)
    step = build_train_step(model, optimizer, config, World())
    batch = random_batch(2, *CANVAS)
    return lambda: step(batch, tf.constant(0), tf.zeros([2]))


def inference(config: Config) -> Callable[[], object]:
    """One call of the detector, with batch norm folded as after loading a model folder."""
    model = build_model(3, config)
    model.fold_batch_norm()
    batch = random_batch(1, *CANVAS)
    detect = tf.function(model.detect)
    return lambda: detect(batch.images, batch.image_sizes, batch.original_sizes)


def executed(program: Callable[[], object]) -> Counter[str]:
    """Number of nodes by operation type in the graphs that the executor runs for one call of a program."""
    context.enable_graph_collection()  # before the first call, which makes the graphs
    try:
        program()
        metadata = context.export_run_metadata()
    finally:
        context.disable_graph_collection()
    return Counter(node.op for graph in metadata.partition_graphs for node in graph.node)


if __name__ == "__main__":
    main()
