"""Differences between a peer and frcnn, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ARRAYS = (
    "image",
    "C2",
    "C3",
    "C4",
    "C5",
    "P2",
    "P3",
    "P4",
    "P5",
    "P6",
    "anchors",
    "logits",
    "deltas",
    "roi_features",
    "class_scores",
    "box_deltas",
)
# Of the later stages of a cascade; the first stage has the names above.
CASCADE_ARRAYS = tuple(f"{name}_{stage}" for stage in (2, 3) for name in ("roi_features", "class_scores", "box_deltas"))
SIDE, SCORE = 0.5, 1e-3  # tolerances in pixels and probability for two detections to be the same
SAME_PROPOSAL = 0.99  # IoU


class Detections(NamedTuple):
    """Detections matched one to one within their class.

    Attributes:
        peer, ours: number of detections.
        unmatched: number of the peer's without a partner, of ours without a partner.
        side, score: largest differences of matched detections, pixels and probability.
    """

    peer: int
    ours: int
    unmatched: tuple[int, int]
    side: float
    score: float


def stage_differences(peer: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest absolute difference of each stage over the largest absolute value of the peer's (anchors: pixels)."""
    found = {}
    for name in [name for name in (*ARRAYS, *CASCADE_ARRAYS) if name in peer]:
        if peer[name].shape != ours[name].shape:
            raise SystemExit(f"{name}: the peer's shape is {peer[name].shape}, ours {ours[name].shape}")
        scale = 1.0 if name == "anchors" else np.abs(peer[name]).max()
        found[name] = float(np.abs(peer[name] - ours[name]).max() / scale)
    return found


def unmatched_proposals(peer: np.ndarray, ours: np.ndarray) -> tuple[int, int]:
    """Proposals without a partner of IoU 0.99 on the other side: the peer's, ours."""
    overlaps = _iou(peer.astype(np.float64), ours.astype(np.float64))
    return int((overlaps.max(axis=1) < SAME_PROPOSAL).sum()), int((overlaps.max(axis=0) < SAME_PROPOSAL).sum())


def compare_detections(peer: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> Detections:
    """Match detections one to one within ``SIDE`` and ``SCORE`` in their class, and count the unmatched ones."""
    sides = np.abs(peer["boxes"][:, None] - ours["boxes"][None]).max(axis=-1)
    scores = np.abs(peer["scores"][:, None] - ours["scores"][None])
    possible = (sides <= SIDE) & (scores <= SCORE) & (peer["labels"][:, None] == ours["labels"][None])
    distance = np.where(possible, sides + scores, np.inf)
    partners: dict[int, int] = {}
    for row, column in np.column_stack(np.unravel_index(np.argsort(distance, axis=None), distance.shape)):
        if not np.isfinite(distance[row, column]):
            break
        if row not in partners and column not in partners.values():
            partners[int(row)] = int(column)
    rows, columns = list(partners), list(partners.values())
    return Detections(
        len(peer["scores"]),
        len(ours["scores"]),
        (len(peer["scores"]) - len(rows), len(ours["scores"]) - len(rows)),
        float(sides[rows, columns].max(initial=0.0)),
        float(scores[rows, columns].max(initial=0.0)),
    )


def gradient_differences(peer: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Norm of the difference over the norm of the peer's, by variable."""
    if peer.keys() != ours.keys():
        raise SystemExit(f"gradients of other variables: {sorted(peer.keys() ^ ours.keys())[:5]}")
    return {
        path: float(np.linalg.norm(peer[path] - ours[path]) / max(np.linalg.norm(peer[path]), 1e-30)) for path in peer
    }


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(side[:, 2] - side[:, 0]) * (side[:, 3] - side[:, 1]) for side in (boxes, others)]
    return intersection / (areas[0][:, None] + areas[1][None] - intersection)
