"""Time of a training step by phase, compared with the machine's peak and, with --peer, with torchvision.

    python benchmarks/train_step.py --config configs/bccd_r18_fpn.yaml data.root=bccd --json step.json
    python benchmarks/train_step.py --peer --config … training.precision=float32 fpn.channels=256 …

Prints milliseconds per step for input, forward, backward and update (medians; each is the difference of two measured
programs), images/s, peak memory, and the arithmetic rate of forward and backward beside that of a large matrix product
on the same threads. With --peer, torchvision's Faster R-CNN of the same layers trains on the same batches, its steps
alternating with ours; it needs the extra "bench". Values need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if "--peer" in sys.argv:
    # Importing torch after TensorFlow crashes.
    import torch
    import torchvision

import numpy as np
import tensorflow as tf
from tensorflow.python.profiler.model_analyzer import profile
from tensorflow.python.profiler.option_builder import ProfileOptionBuilder

from frcnn.config import Config, load_config
from frcnn.data.batch import Batch
from frcnn.data.pipeline import training_batches
from frcnn.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as output:
        config = load_config(arguments.config, [*arguments.overrides, f"output={output}", "data.workers=1"])
        results = measure(config, arguments.steps, arguments.threads, arguments.peer)
    for name, value in results.items():
        print(f"{name:<34}{value:10.2f}" if isinstance(value, float) else f"{name:<34}{value:>10}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(config: Config, steps: int, threads: int, with_peer: bool) -> dict[str, Any]:
    trainer = Trainer(config)
    batches = iter(training_batches(trainer.train_index, config))
    batch = next(batches)
    seed = tf.constant([0, 0])
    variables = trainer.model.trainable_variables

    @tf.function
    def forward() -> tf.Tensor:
        return tf.add_n(list(trainer.model.compute_losses(batch, seed).values()))

    @tf.function
    def forward_and_backward() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.add_n(list(trainer.model.compute_losses(batch, seed).values()))
        return tape.gradient(loss, variables)

    programs: dict[str, Callable[[], object]] = {
        "input": lambda: next(batches),
        "forward": forward,
        "forward_and_backward": forward_and_backward,
        "step": lambda: trainer.train_step(batch, tf.constant(0), tf.zeros([2])),
        "matrix product": matrix_product(config.training.precision),
    }
    if with_peer:
        programs["torchvision"] = torchvision_step(config, batch, len(trainer.detector.class_names), threads)
    times = alternate(programs, steps)
    flops = float_operations(forward_and_backward)
    rows = config.training.batch_size
    peak = PRODUCT_FLOPS / times["matrix product"]
    results: dict[str, Any] = {
        "precision": config.training.precision,
        "images a step": rows,
        "input ms": 1e3 * times["input"],
        "forward ms": 1e3 * times["forward"],
        "backward ms": 1e3 * (times["forward_and_backward"] - times["forward"]),
        "update ms": 1e3 * (times["step"] - times["forward_and_backward"]),
        "step ms": 1e3 * times["step"],
        "images/s, step alone": rows / times["step"],
        "images/s, input and step in turn": rows / (times["step"] + times["input"]),
        "GFLOP forward and backward": flops / 1e9,
        "GFLOP/s": flops / times["forward_and_backward"] / 1e9,
        "GFLOP/s of a matrix product": peak / 1e9,
        "share of that": flops / times["forward_and_backward"] / peak,
        "peak memory MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if with_peer:
        results["torchvision step ms"] = 1e3 * times["torchvision"]
        results["torchvision images/s"] = rows / times["torchvision"]
        results["ours in torchvision's time"] = times["torchvision"] / times["step"]
    return results


def alternate(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each program; they run in turn, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 2):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if number >= 2:  # traces and warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


PRODUCT_SIZE = 3072
PRODUCT_FLOPS = 2.0 * PRODUCT_SIZE**3


def matrix_product(precision: str) -> Callable[[], object]:
    """A matrix product that is large enough to be limited by arithmetic."""
    dtype = tf.float32 if precision == "float32" else tf.bfloat16
    factor = tf.cast(tf.random.stateless_normal([PRODUCT_SIZE, PRODUCT_SIZE], [1, 2]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(factor @ factor, tf.float32)))
    return product


def float_operations(function: Any) -> float:
    """Multiplications and additions of the convolutions and matrix products of one call."""
    graph = function.get_concrete_function().graph
    counted = profile(
        graph, options=ProfileOptionBuilder(ProfileOptionBuilder.float_operation()).with_empty_output().build()
    )
    return float(counted.total_float_ops)


def torchvision_step(config: Config, batch: Batch, classes: int, threads: int) -> Callable[[], object]:
    """One step of torchvision's detector with the same layers, sizes and optimizer on the same images."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.set_num_threads(threads)
    norms = {"gn": lambda channels: torch.nn.GroupNorm(32, channels), "bn": torch.nn.BatchNorm2d}
    frozen = torchvision.ops.FrozenBatchNorm2d
    backbone = resnet_fpn_backbone(
        backbone_name=config.backbone.name,
        weights=None,
        norm_layer=norms.get(config.backbone.norm, frozen),
        trainable_layers=5,
    )
    rpn, head = config.rpn, config.roi_head
    model = FasterRCNN(
        backbone,
        classes + 1,
        rpn_anchor_generator=AnchorGenerator(
            tuple((int(size),) for size in config.anchors.sizes),
            (config.anchors.aspect_ratios,) * len(config.anchors.sizes),
        ),
        min_size=config.image.min_size[-1],
        max_size=config.image.max_size,
        rpn_pre_nms_top_n_train=rpn.pre_nms_train,
        rpn_post_nms_top_n_train=rpn.post_nms_train,
        rpn_batch_size_per_image=rpn.samples,
        box_batch_size_per_image=head.samples,
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    images, targets = [], []
    for image, size, boxes, labels in zip(
        batch.images, batch.image_sizes.numpy(), batch.boxes.numpy(), batch.labels.numpy(), strict=True
    ):
        pixels = image.numpy()[: size[0], : size[1]]
        images.append(torch.from_numpy((pixels / 255).astype(np.float32)).permute(2, 0, 1).contiguous())
        real = labels > 0
        targets.append({"boxes": torch.from_numpy(boxes[real]), "labels": torch.from_numpy(labels[real]).long()})

    def step() -> None:
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
