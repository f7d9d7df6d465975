"""Which images to label next: those the model is least sure about, and that differ from each other."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from frcnn.atomic import atomic_file
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.drawing import arrange, class_color, draw_boxes, with_heading
from frcnn.inference import Detections, Detector
from frcnn.weights.score_thresholds import ScoreThresholds

LIST_FILE = "uncertain.csv"
SHEET_FILE = "uncertain.png"
COUNTED = 3  # detections of an image whose uncertainty counts: a crowded image is not better because it is crowded
CANDIDATES = 5  # images per chosen one whose features are computed
CELL = (400, 330)  # pixels of an image of the contact sheet, with its heading
COLUMNS = 5
MARGIN, HEADING = 6, 16  # pixels


class DetectedImage(NamedTuple):
    """An image file and what was found in it."""

    path: Path
    detections: Detections


def uncertainty(scores: np.ndarray, threshold: float | np.ndarray) -> float:
    """How unsure the model is about an image, in bits from 0 to 1.

    A score counts as the probability that the object is there, with its odds divided by those of the threshold, so that
    a score at the threshold is as uncertain as a coin (entropy of 1 bit), and one of 0 or 1 is certain. The result is
    the mean over the three most uncertain detections; missing ones count as certain.

    Args:
        scores: ``[D]`` in 0..1.
        threshold: score from which a detection counts as an object, in (0, 1); for all or ``[D]``.
    """
    scores, threshold = np.asarray(scores, np.float64), np.clip(np.asarray(threshold, np.float64), 1e-3, 1 - 1e-3)
    present = scores * (1 - threshold)
    absent = (1 - scores) * threshold
    share = np.clip(present / np.maximum(present + absent, 1e-300), 1e-12, 1 - 1e-12)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    return float(np.sort(entropy)[::-1][:COUNTED].sum() / COUNTED)


def choose(uncertainties: np.ndarray, features: np.ndarray, count: int) -> list[int]:
    """Rows to label, most useful first: the greedy k-center method (Sener and Savarese 2018), weighted.

    The first is the most uncertain one; each further one has the largest product of its uncertainty and its distance
    to the nearest one that was chosen before, so that near-duplicates are not chosen twice.

    Args:
        uncertainties: ``[N]``.
        features: ``[N, C]``; distances are Euclidean.
        count: number of rows; at most N are returned.
    """
    chosen: list[int] = []
    distances = np.full(len(uncertainties), np.inf)
    for _ in range(min(count, len(uncertainties))):
        # Before the first choice all distances are infinite, and the uncertainty alone decides.
        gains = np.where(np.isinf(distances), uncertainties, uncertainties * distances)
        gains[chosen] = -1.0
        chosen.append(int(np.argmax(gains)))
        distances = np.minimum(distances, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return chosen


def write_uncertain(
    detector: Detector, images: Sequence[DetectedImage], threshold: float | ScoreThresholds, count: int, out: Path
) -> int:
    """Write ``uncertain.csv`` and ``uncertain.png``: the ``count`` images to label next, and what was detected there.

    Features are the pooled ones of the model's backbone (:meth:`Detector.features`), computed for the most uncertain
    ``CANDIDATES * count`` images.

    Returns:
        The number of images in the list: fewer than ``count`` if there are no more.

    Raises:
        OSError: the files cannot be written.
    """
    limits = [
        threshold.of(image.detections.labels) if isinstance(threshold, ScoreThresholds) else threshold
        for image in images
    ]
    all_uncertain = np.array(
        [uncertainty(image.detections.scores, limit) for image, limit in zip(images, limits, strict=True)]
    )
    order = np.argsort(-all_uncertain, kind="stable")[: CANDIDATES * count]
    rows, features = [], []
    for row in order.tolist():
        try:
            pixels = decode_image(images[row].path, detector.config.data.max_pixels)
        except UnreadableImage:  # since it was detected
            continue
        rows.append(row)
        features.append(detector.features(detector.prepare(pixels)))
    picked = choose(all_uncertain[rows], np.array(features), count) if rows else []
    chosen_rows = [rows[position] for position in picked]
    chosen = [(images[row], float(all_uncertain[row])) for row in chosen_rows]
    with atomic_file(out / LIST_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "uncertainty"])
        writer.writerows([str(image.path), f"{value:.4f}"] for image, value in chosen)
    tiles = [
        tile
        for rank, (row, (image, value)) in enumerate(zip(chosen_rows, chosen, strict=True), start=1)
        if (
            tile := _tile(image, limits[row], f"{rank}. {value:.2f} {image.path.name}", detector.config.data.max_pixels)
        )
    ]
    with atomic_file(out / SHEET_FILE) as temporary:
        arrange(tiles, min(COLUMNS, max(len(tiles), 1)), CELL).save(temporary, format="PNG")
    return len(chosen)


def _tile(image: DetectedImage, threshold: float | np.ndarray, heading: str, max_pixels: int) -> Image.Image | None:
    """The image with the detections of at least half of the threshold, under its heading."""
    try:
        whole = Image.fromarray(decode_image(image.path, max_pixels))
    except UnreadableImage:
        return None
    small = whole.copy()
    small.thumbnail((CELL[0] - 2 * MARGIN, CELL[1] - 4 * MARGIN - HEADING))
    found = image.detections
    shown = np.flatnonzero(found.scores >= threshold / 2)[::-1]
    boxes = found.boxes[shown] * np.array([small.width / whole.width, small.height / whole.height] * 2)
    captions = [f"{found.names[row]} {found.scores[row]:.2f}" for row in shown]
    colors = [class_color(int(label)) for label in found.labels[shown]]
    return with_heading(draw_boxes(np.asarray(small), boxes, captions, colors, min_side=1), heading, HEADING)
