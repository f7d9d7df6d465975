"""Compare the GPU with the CPU: forward passes on the same weights, and the losses of training runs.

    python benchmarks/gpu_parity.py --json parity.json

Both sides have the same weights, images and samples, in float32 without TF32. The forward pass must agree to 1e-4 of
the largest value in every stage; the first training loss to 1e-4, and the mean of the last ten losses to 10 %: rounding
exchanges proposals and samples after some steps. Without a GPU the compiled kernels are compared with the reference on
the CPU. Exit code 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from frcnn.config import Config, load_config
from frcnn.data.batch import Batch
from frcnn.data.coco import Index, find_split, load_index
from frcnn.data.pipeline import training_batches
from frcnn.data.shapes import make_shapes
from frcnn.distributed import World
from frcnn.modeling import roi_head, rpn
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.training.optimizer import build_optimizer
from frcnn.training.step import build_train_step

FORWARD, FIRST_LOSS, LAST_LOSSES = 1e-4, 1e-4, 0.1
OPTIONS = """
    image.min_size=[160] image.max_size=256 backbone.name=resnet18 backbone.norm=gn backbone.freeze=0 fpn.channels=64
    roi_head.fc_channels=256 rpn.pre_nms_train=500 rpn.post_nms_train=250 roi_head.samples=128 training.batch_size=4
    optimizer.warmup_steps=10
"""


def options(kernel: str, data: Path, overrides: list[str]) -> Config:
    fixed = [f"ops.kernel={kernel}", f"data.root={data}", "data.workers=1"]
    return load_config(overrides=[*OPTIONS.split(), *overrides, *fixed])


def run(device: str, config: Config, index: Index, steps: int) -> dict[str, Any]:
    """Stages of a forward pass, and the sum of the losses of each step, on a device."""
    batches = training_batches(index, config)
    keras.utils.set_random_seed(0)
    with tf.device(device):
        model = build_model(len(index.class_names), config)
        stages = {name: tensor.numpy() for name, tensor in forward(model, next(iter(batches))).items()}
        optimizer = build_optimizer(config, steps, model.trainable_variables)
        step = build_train_step(model, optimizer, config, World())
        losses = [
            float(step(batch, tf.constant(number), tf.zeros([2]))[4])
            for number, batch in zip(range(steps), batches, strict=False)
        ]
    return {"stages": stages, "losses": losses}


def forward(model: FasterRCNN, batch: Batch) -> dict[str, tf.Tensor]:
    """Outputs of every stage; the RoI head gets fixed boxes, because proposals are discontinuous in the weights."""
    pyramid = model.pyramid(model.normalized(batch.images, batch.image_sizes))
    predictions: rpn.Predictions = model.rpn(pyramid)
    pooled = roi_head.pool(pyramid, batch.boxes, model.options.roi_head, model.options.ops.kernel)
    logits, deltas = model.roi_head(pooled)
    stages = {f"P{level}": features for level, features in enumerate(pyramid, start=2)}
    stages |= {"objectness": predictions.logits, "box deltas": predictions.deltas, "RoI features": pooled}
    return stages | {"class logits": logits, "class box deltas": deltas}


def compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Largest relative differences."""
    stages = {
        name: float(np.abs(values - second["stages"][name]).max() / np.abs(values).max())
        for name, values in first["stages"].items()
    }
    last = [float(np.mean(side["losses"][-10:])) for side in (first, second)]
    return {
        "stages": stages,
        "losses": [first["losses"], second["losses"]],
        "first_loss": abs(second["losses"][0] / first["losses"][0] - 1),
        "last_losses": abs(last[1] / last[0] - 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpu = bool(tf.config.list_physical_devices("GPU"))
    with tempfile.TemporaryDirectory() as folder:
        data = make_shapes(Path(folder) / "shapes", images=arguments.images, seed=0)
        config = options("reference", data, arguments.overrides)
        index = load_index(*find_split(config.data, "train"))
        first = run("CPU:0", config, index, arguments.steps)
        compiled = options("compiled", data, arguments.overrides)
        second = run("GPU:0" if gpu else "CPU:0", compiled, index, arguments.steps)
    result = {"sides": ["CPU, reference", "GPU" if gpu else "CPU, compiled"], **compare(first, second)}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result["stages"].items():
        print(f"{name:<18} {value:.1e}")
    worst = max(result["stages"].values())
    print(
        f"{' and '.join(result['sides'])}: stages differ by up to {worst:.1e}, the first loss by "
        f"{result['first_loss']:.1e}, the last losses by {result['last_losses']:.1%} after {arguments.steps} steps"
    )
    exceeded = worst > FORWARD or result["first_loss"] > FIRST_LOSS or result["last_losses"] > LAST_LOSSES
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
