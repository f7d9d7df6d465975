"""Speed of torchvision's Faster R-CNN on a GPU, measured as gpu_speed.py measures ours.

    python benchmarks/gpu_peer.py --precision mixed_bfloat16 --json peer.json

ResNet-50-FPN with torchvision's sizes at 800 x 1333, channels last, cuDNN's autotuning on, under autocast in half
precision. Random images with 8 boxes each are on the GPU before the time is taken. A training step may start before the
one before has finished, as in ours; a call of inference waits for its result. Needs PyTorch and torchvision for the
GPU; a separate process, because PyTorch and TensorFlow load different CUDA libraries. Without a GPU the CPU is
measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import torchvision_peer

from frcnn.config import load_config

CLASSES, OBJECTS, WARM_UP = 80, 8, 5
HEIGHT, WIDTH = 800, 1333


def random_batch(size: int, height: int, width: int, device: str) -> tuple[Any, Any]:
    """Images and targets as torchvision takes them."""
    rng = np.random.default_rng(0)
    scale = np.array([width, height], np.float32)
    images, targets = [], []
    for _ in range(size):
        image = torch.from_numpy(rng.random((height, width, 3), np.float32)).permute(2, 0, 1)
        images.append(image.to(device))
        sides = rng.uniform(0.05, 0.4, (OBJECTS, 2)) * scale
        corners = rng.uniform(0, 1, (OBJECTS, 2)) * (scale - sides)
        boxes = torch.from_numpy(np.concatenate([corners, corners + sides], axis=1).astype(np.float32))
        labels = torch.from_numpy(rng.integers(1, CLASSES + 1, OBJECTS))
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device)})
    return images, targets


def measure(program: Callable[[], object], steps: int, device: str, lag: int) -> dict[str, float]:
    """Median duration and peak memory of a program whose call number n ends when call n - ``lag`` has."""
    times, running = [], deque()
    for number in range(WARM_UP + steps):
        if number == WARM_UP and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        program()
        if device == "cuda":
            running.append(torch.cuda.Event())
            running[-1].record()
            if len(running) > lag:
                running.popleft().synchronize()
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"milliseconds": 1e3 * statistics.median(times), "memory_mebibytes": memory / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "tf32", "mixed_bfloat16", "mixed_float16"), required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(HEIGHT, WIDTH), help="height and width of the images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.precision == "tf32"
    policy = "float32" if arguments.precision == "tf32" else arguments.precision
    overrides = [f"training.precision={policy}", "backbone.norm=frozen_bn", "backbone.freeze=2", *arguments.overrides]
    config = load_config(overrides=overrides)
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "training": [],
        "inference": [],
    }
    for task in ("training", "inference"):
        for size in arguments.batch_sizes:
            images, targets = random_batch(size, *arguments.size, device)
            program = (
                torchvision_peer.training_step(config, images, targets, CLASSES, device)
                if task == "training"
                else torchvision_peer.inference(config, images, CLASSES, device)
            )
            try:
                row = {"batch": size, **measure(program, arguments.steps, device, lag=task == "training")}
            except torch.cuda.OutOfMemoryError:
                print(f"torchvision, {task}, batch {size}: out of memory", flush=True)
                break
            row["images_per_second"] = 1e3 * size / row["milliseconds"]
            results[task].append(row)
            print(f"torchvision, {task}, batch {size}: {json.dumps(row)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
