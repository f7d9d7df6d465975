"""Detection in overlapping tiles, for objects that are too small in an image that is resized as a whole.

Each tile, and the whole image for objects larger than a tile, goes through the detector as an image of its own; boxes
are moved to the original coordinates and merged class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from frcnn import ops
from frcnn.data.coco import Index
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.data.tiles import Tile, tiles_of
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.inference import SINGLE_IMAGE, Detections, Detector, ImageSource, load_image
from frcnn.weights.score_thresholds import ScoreThresholds

GPU_BATCH = 8  # tiles that a GPU computes at once; one already keeps all cores of a CPU busy
BORDER = 0.005  # a box this close to an inner border of its tile, relative to the tile, is taken for cut
CUT_PRIORITY = 0.5  # of the score of a cut box, when it competes with a whole one
COVERED = 0.7  # share of a cut box inside another one from which it is a piece of the same object


@dataclass(frozen=True)
class Tiling:
    """How images are tiled.

    Attributes:
        tile: side of a tile, pixels of the original image.
        overlap: minimum share of a tile that its neighbor covers as well.
    """

    tile: int
    overlap: float

    def __str__(self) -> str:
        return f"tiles of {self.tile} pixels with an overlap of {self.overlap:g}"

    def windows(self, width: int, height: int) -> list[Tile]:
        """The tiles of an image, and last the whole image; only this if it is not larger than a tile."""
        tiles = tiles_of(width, height, self.tile, self.overlap)
        whole = Tile(0, 0, width, height)
        return [whole] if len(tiles) == 1 else [*tiles, whole]


def detection_name(tiling: Tiling | None, test: str | None) -> str:
    """How images are detected in, in words; ``test`` are the options that differ from the model's."""
    return f"{tiling or 'whole images'}" + (f", --test '{test}'" if test else "")


def thresholds_mismatch(thresholds: ScoreThresholds | None, tiling: Tiling | None, test: str | None) -> str | None:
    """A message if the thresholds of a model were chosen with other tiles or test options, which change the scores."""
    if thresholds is None:
        return None
    chosen_with = Tiling(*thresholds.tiling) if thresholds.tiling else None
    if chosen_with == tiling and sorted((thresholds.test or "").split()) == sorted((test or "").split()):
        return None
    options = (f" --tile {tiling.tile} --overlap {tiling.overlap:g}" if tiling else "") + (
        f" --test '{test}'" if test else ""
    )
    return (
        f"the score thresholds of the model were chosen with {detection_name(chosen_with, thresholds.test)}, and are "
        f"applied to {detection_name(tiling, test)}; to choose them anew, run frcnn thresholds{options}"
    )


def merge(windows: Sequence[Tile], found: Sequence[Detections], nms_iou: float) -> Detections:
    """Detections of the windows as those of one image, best first; those of a single window are returned unchanged.

    Greedy NMS per class at an IoU of ``nms_iou``, with one addition for the objects that a border between tiles cuts: a
    box at an inner border competes at half of its score, and is also suppressed if 70 % of it are in a box that it
    loses against. So the whole box of a neighboring tile replaces its pieces, unless it is much less certain. An object
    that is whole in no window is reported in pieces.

    Args:
        windows: parts of the image; the last one is the whole image.
        found: detections in each of them, in pixels of the window.
    """
    if len(windows) == 1:
        return found[0]
    offsets = [np.array([window.x, window.y] * 2, np.float32) for window in windows]
    boxes = np.concatenate([part.boxes + offset for part, offset in zip(found, offsets, strict=True)])
    scores = np.concatenate([part.scores for part in found])
    labels = np.concatenate([part.labels for part in found])
    parts = zip(found, windows, strict=True)
    cut = np.concatenate([_is_cut(part.boxes, window, windows[-1]) for part, window in parts])
    priority = scores * np.where(cut, CUT_PRIORITY, 1.0)
    kept: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept += _suppress(boxes, cut, rows[np.argsort(-priority[rows], kind="stable")], nms_iou)
    order = np.array(kept, int)
    order = order[np.argsort(-scores[order], kind="stable")]
    return replace(found[0], boxes=boxes[order], scores=scores[order], labels=labels[order])


class TiledDetector:
    """A :class:`Detector` with the same methods on images that tiles the large ones.

    Args:
        batch_size: tiles of an image that are computed at once; None: 8 on a GPU, 1 on the CPU.
    """

    def __init__(self, detector: Detector, tiling: Tiling, batch_size: int | None = None) -> None:
        self.detector = detector
        self.tiling = tiling
        self.config = detector.config
        self.class_names = detector.class_names
        self.category_ids = detector.category_ids
        self._batch_size = batch_size or (GPU_BATCH if ops.uses_gpu() else 1)

    def detect(self, images: ImageSource | Sequence[ImageSource], batch_size: int = 1) -> list[Detections]:
        """Detect objects in one image or several; as :meth:`Detector.detect`.

        Args:
            batch_size: images that are not larger than a tile, or tiles, that are computed at once, if that is more
                than the detector's own number.
        """
        sources: Iterable[ImageSource] = [images] if isinstance(images, SINGLE_IMAGE) else images
        return [self._detect(load_image(source, self.config.data.max_pixels), batch_size) for source in sources]

    def detect_index(
        self,
        index: Index,
        batch_size: int = 1,
        progress: Callable[[int, int], None] | None = None,
        rank: int = 0,
        size: int = 1,
        unreadable_images: UnreadableImages | None = None,
    ) -> dict[int, Detections]:
        """As :meth:`Detector.detect_index`; an image that cannot be read has no detections."""
        results: dict[int, Detections] = {}
        for record in index.images[rank::size]:
            try:
                image = decode_image(record.path, self.config.data.max_pixels)
            except UnreadableImage as error:
                if unreadable_images is not None:
                    unreadable_images.add(record.path, str(error))
                empty = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
                results[record.image_id] = Detections(*empty, self.class_names)
            else:
                results[record.image_id] = self._detect(image, batch_size)
            if progress:
                progress(len(results), len(index.images))
        return results

    def _detect(self, image: np.ndarray, batch_size: int) -> Detections:
        windows = self.tiling.windows(image.shape[1], image.shape[0])
        if len(windows) == 1:
            return self.detector.detect([image], 1)[0]
        found = self.detector.detect([window.crop(image) for window in windows[:-1]], max(batch_size, self._batch_size))
        found += self.detector.detect([image], 1)
        return merge(windows, found, self.config.roi_head.nms_iou)


def _is_cut(boxes: np.ndarray, window: Tile, whole: Tile) -> np.ndarray:
    """Which boxes ``[N, 4]``, in pixels of the window, end at a border of it that is not one of the image."""
    margin = max(2.0, BORDER * max(window.width, window.height))
    cut = np.zeros(len(boxes), bool)
    if window.x > 0:
        cut |= boxes[:, 0] < margin
    if window.y > 0:
        cut |= boxes[:, 1] < margin
    if window.x + window.width < whole.width:
        cut |= boxes[:, 2] > window.width - margin
    if window.y + window.height < whole.height:
        cut |= boxes[:, 3] > window.height - margin
    return cut


def _suppress(boxes: np.ndarray, cut: np.ndarray, order: np.ndarray, nms_iou: float) -> list[int]:
    """Rows that remain of those in ``order``, all of one class, most important first."""
    kept = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    while order.size:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = np.maximum(sides, 0).prod(axis=1)
        overlaps = shared > nms_iou * (areas[best] + areas[order] - shared)
        order = order[~(overlaps | (cut[order] & (shared > COVERED * areas[order])))]
    return kept
