"""A peer's outputs reduced to a small file, and the images they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from peers.differences import ARRAYS, CASCADE_ARRAYS, gradient_differences

MIN_SIZE, MAX_SIZE = 160, 267  # of the stored run: the smallest at which all five levels have several rows
IMAGE_SIZE, SEED = (210, 277), 7  # 210 x 277 is resized to 160 x 211, which needs truncation
SAMPLES = 200  # values kept of each stage and each gradient
GRADIENTS = 12  # tensors whose gradients are kept, spread over the network


def random_image(number: int) -> np.ndarray:
    """Image ``[H, W, 3]`` uint8 of waves and rectangles, from integer arithmetic only: the same on every machine."""
    rng = np.random.default_rng([SEED, number])
    height, width = IMAGE_SIZE
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x * a + y * b) // 3 % 256 for a, b in rng.integers(1, 9, (3, 2))], axis=-1)
    for _ in range(12):
        top, left = rng.integers(0, height - 30), rng.integers(0, width - 30)
        image[top : top + rng.integers(15, 90), left : left + rng.integers(15, 90)] = rng.integers(0, 256, 3)
    return image.astype(np.uint8)


def random_truth(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes ``[N, 4]`` float32 in pixels of the image, and labels ``[N]`` int32."""
    rng = np.random.default_rng([SEED, number, 1])
    corners = rng.integers([0, 0], [IMAGE_SIZE[1] - 70, IMAGE_SIZE[0] - 70], (5, 2))
    boxes = np.concatenate([corners, corners + rng.integers(20, 70, (5, 2))], axis=1)
    return boxes.astype(np.float32), rng.integers(1, 80, 5).astype(np.int32)


def sampled(values: np.ndarray) -> np.ndarray:
    """Up to ``SAMPLES`` values at fixed positions, float32, followed by the largest absolute value of all."""
    flat = np.asarray(values, np.float32).ravel()
    places = np.random.default_rng(SEED).choice(flat.size, min(SAMPLES, flat.size), replace=False)
    return np.append(flat[np.sort(places)], np.abs(flat).max(initial=0.0))


def reduce_inference(stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples of every stage; all proposals and detections."""
    reduced = {name: sampled(stages[name]) for name in (*ARRAYS, *CASCADE_ARRAYS) if name in stages}
    return reduced | {name: stages[name] for name in ("proposals", "boxes", "scores", "labels")}


def reduce_training(
    found: Mapping[str, Any], gradients: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The sampled anchors and RoIs, the losses, and samples of some of the ``exact`` (float64) gradients by our paths.

    ``rounding`` of a gradient is the relative difference between the peer's own float32 and float64 gradients: no other
    float32 implementation can be expected to be closer.
    """
    paths = sorted(exact)
    kept = sorted({paths[place] for place in np.linspace(0, len(paths) - 1, GRADIENTS).round().astype(int)})
    reduced = {f"gradient:{path}": np.append(sampled(exact[path]), np.linalg.norm(exact[path])) for path in kept}
    rounding = gradient_differences({path: exact[path] for path in kept}, {path: gradients[path] for path in kept})
    reduced |= {f"rounding:{path}": np.array(value) for path, value in rounding.items()}
    reduced |= {f"loss:{name}": np.array(value) for name, value in found["losses"].items()}
    for row, (positive, negative) in enumerate(found["anchors"]):
        reduced[f"positive:{row}"], reduced[f"negative:{row}"] = np.flatnonzero(positive), np.flatnonzero(negative)
        reduced[f"anchors:{row}"] = np.array(len(positive))
        reduced[f"rois:{row}"], reduced[f"roi_labels:{row}"] = found["rois"][row], found["roi_labels"][row]
    return reduced


def restore_samples(stored: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Samples as ``OurSide.training`` takes them, from the stored arrays."""
    anchors, rois, labels = [], [], []
    for row in range(sum(name.startswith("rois:") for name in stored)):
        masks = np.zeros((2, int(stored[f"anchors:{row}"])), bool)
        masks[0, stored[f"positive:{row}"]] = masks[1, stored[f"negative:{row}"]] = True
        anchors.append((masks[0], masks[1]))
        rois.append(stored[f"rois:{row}"])
        labels.append(stored[f"roi_labels:{row}"])
    return {"anchors": anchors, "rois": rois, "roi_labels": labels}
