"""Soft-NMS against the definition, class by class and box by box in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.config import Inference
from frcnn.modeling.soft_nms import soft_nms

THRESHOLD, IOU = 0.1, 0.3


def slow_soft_nms(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, method: str, sigma: float, most: int
) -> list[tuple[int, float]]:
    """Indices and lowered scores, best first."""
    found = []
    for label in sorted(set(labels.tolist())):
        left = {int(i): float(scores[i]) for i in np.flatnonzero(labels == label)}
        while left:
            best = max(left, key=lambda i: left[i])
            score = left.pop(best)
            if score <= THRESHOLD:
                break
            found.append((best, score))
            for other in left:
                iou = slow_iou(boxes[best], boxes[other])
                if method == "gaussian":
                    left[other] *= np.exp(-(iou**2) / sigma)
                elif iou > IOU:
                    left[other] *= 1 - iou
    return sorted(found, key=lambda entry: -entry[1])[:most]


@pytest.mark.parametrize(
    ("method", "sigma", "most"), [("linear", 0.5, 30), ("gaussian", 0.5, 8), ("gaussian", 0.1, 30)]
)
def test_every_box_and_score(method: str, sigma: float, most: int) -> None:
    rng = np.random.default_rng(most)
    corner = rng.uniform(0, 30, (2, 25, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(15, 30, (2, 25, 2))], axis=2).astype(np.float32)
    boxes[0, 1] = boxes[0, 0]  # an exact copy
    scores = (rng.random((2, 25)) * (rng.random((2, 25)) < 0.8)).astype(np.float32)
    labels = rng.integers(1, 3, (2, 25)).astype(np.int32)
    found, lowered = soft_nms(
        tf.constant(boxes), tf.constant(scores), tf.constant(labels),
        options=Inference(soft_nms=method, soft_nms_sigma=sigma),
        iou_threshold=IOU, score_threshold=THRESHOLD, max_outputs=most,
    )  # fmt: skip
    for image in range(2):
        expected = slow_soft_nms(boxes[image].astype(float), scores[image], labels[image], method, sigma, most)
        assert 5 < len(expected) <= 25
        count = len(expected)
        assert found[image, :count].numpy().tolist() == [index for index, _ in expected]
        np.testing.assert_allclose(lowered[image, :count], [score for _, score in expected], rtol=1e-5)
        assert (found[image, count:].numpy() == -1).all()
        assert not lowered[image, count:].numpy().any()
