"""Writes tests/ops/torchvision.npz: inputs of both operations and torchvision's outputs.

pip install torch==2.14.1 torchvision==0.29.1
python tools/golden_ops.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torchvision

FILE = Path(__file__).resolve().parent.parent / "tests" / "ops" / "torchvision.npz"
STRIDES = (4, 8, 16, 32)
CANVAS = (512, 640)


def pooling_inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Small integers as features, so that the file compresses; with boxes at the borders of the levels."""
    inputs = {
        f"p{k}": rng.integers(-8, 8, size=(2, CANVAS[0] >> k, CANVAS[1] >> k, 1)).astype(np.int8) for k in range(2, 6)
    }
    size = np.exp(rng.uniform(np.log(6), np.log(500), size=(40, 2)))
    corner = rng.uniform(0, 1, size=(40, 2)) * (np.array(CANVAS[::-1]) - size).clip(0)
    boxes = np.concatenate([corner, np.minimum(corner + size, CANVAS[::-1])], axis=1).astype(np.float32)
    for row, side in enumerate(
        (112, 224, 448, np.nextafter(np.float32(112), np.float32(0)), np.nextafter(np.float32(224), np.float32(0)))
    ):
        boxes[row] = (0, 0, side, side)
    boxes[5:8] = [[0, 0, 640, 512], [600, 480, 640, 512], [30, 40, 30.5, 40.25]]
    return {**inputs, "boxes": boxes, "box_image": rng.integers(0, 2, size=40).astype(np.int32)}


def pool(inputs: dict[str, np.ndarray], sampling_ratio: int, aligned: bool) -> dict[str, np.ndarray]:
    """torchvision's roi_align on the levels of its LevelMapper, and the gradients of a weighted sum."""
    levels = [
        torch.from_numpy(inputs[f"p{k}"].astype(np.float32)).permute(0, 3, 1, 2).contiguous().requires_grad_()
        for k in range(2, 6)
    ]
    boxes, images = torch.from_numpy(inputs["boxes"]), torch.from_numpy(inputs["box_image"])
    level_of = torchvision.ops.poolers.LevelMapper(2, 5)([boxes])
    pooled = torch.zeros(len(boxes), 1, 7, 7)
    for index, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        selected = torch.where(level_of == index)[0]
        rois = torch.cat([images[selected, None].float(), boxes[selected]], dim=1)
        pooled[selected] = torchvision.ops.roi_align(level, rois, 7, 1 / stride, sampling_ratio, aligned)
    weights = torch.arange(pooled.numel()).reshape(pooled.shape) % 5 - 2.0
    (pooled * weights).sum().backward()
    name = f"s{sampling_ratio}{'_aligned' if aligned else ''}"
    gradients = {
        f"{name}_p{k}": level.grad.permute(0, 2, 3, 1).numpy() for k, level in zip(range(2, 6), levels, strict=True)
    }
    return {f"{name}_pooled": pooled.detach().permute(0, 2, 3, 1).numpy(), **gradients}


def suppression(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Boxes on a coarse grid, so that IoUs equal the thresholds; no ties, whose order torchvision does not define."""
    corner = rng.integers(0, 40, size=(600, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 12, size=(600, 2))], axis=1).astype(np.float32)
    scores, groups = rng.permutation(600).astype(np.float32) / 600, rng.integers(0, 4, size=600).astype(np.int32)
    results = {"nms_boxes": boxes, "nms_scores": scores, "nms_groups": groups}
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
    for threshold in (0.3, 0.5, 0.7):
        results[f"nms_{threshold}"] = torchvision.ops.nms(*tensors, threshold).numpy().astype(np.int32)
        results[f"nms_{threshold}_grouped"] = (
            torchvision.ops.boxes._batched_nms_vanilla(*tensors, torch.from_numpy(groups), threshold)
            .numpy()
            .astype(np.int32)
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the versions and the shapes here")
    arguments = parser.parse_args()
    rng = np.random.default_rng(5)
    contents = pooling_inputs(rng)
    for sampling_ratio in (0, 2):
        for aligned in (False, True):
            contents |= pool(contents, sampling_ratio, aligned)
    contents |= suppression(rng)
    np.savez_compressed(FILE, **contents)
    print(f"{FILE}: {FILE.stat().st_size} bytes from torch {torch.__version__}, torchvision {torchvision.__version__}")
    if arguments.json:
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        arguments.json.write_text(
            json.dumps(versions | {name: list(array.shape) for name, array in contents.items()}, indent=2)
        )


if __name__ == "__main__":
    main()
