"""Cuts the images and boxes of a COCO split into tiles, for training on large images with small objects."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from frcnn.data.coco import ImageRecord, Index
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.data.image_limits import DEFAULT_MAX_PIXELS
from frcnn.data.tiles import Tile, tiles_of

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
JPEG_QUALITY = 95
DECIMALS = 2  # of boxes, pixels


class TileOptions(NamedTuple):
    """How a split is cut.

    Attributes:
        tile: side in pixels.
        overlap: minimum share of a tile that its neighbor covers as well.
        min_visible: share of an object's box that a tile must contain for the object to be one of the tile's.
        empty_share: share of the tiles without objects and crowd regions that is kept.
        seed: of the choice of these tiles.
        max_pixels: maximum size of an image.
    """

    tile: int
    overlap: float
    min_visible: float
    empty_share: float
    seed: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS


class TileSummary(NamedTuple):
    """What became of a split.

    Attributes:
        images: images of the split that were cut.
        tiles: tiles written.
        without_objects: number of them without objects.
        left_out: tiles without objects that were not written.
        objects: objects of the split.
        boxes: boxes of the tiles; an object in an overlap has several.
        dropped: boxes that were dropped because too little of the object is visible in the tile.
        lost: objects that are in no tile, because they are too large for one.
        unreadable: why images could not be cut.
    """

    images: int
    tiles: int
    without_objects: int
    left_out: int
    objects: int
    boxes: int
    dropped: int
    lost: int
    unreadable: list[str]

    def lines(self) -> list[str]:
        """For the terminal."""
        shown = [
            f"{self.images} images -> {self.tiles} tiles, {self.without_objects} of them without objects; "
            f"{self.left_out} further ones without objects left out",
            f"{self.objects} objects -> {self.boxes} boxes; {self.dropped} of which too little is visible are dropped",
        ]
        if self.lost:
            shown.append(f"warning: {self.lost} objects are in no tile: they are too large for it")
        return shown + [f"skipped: {reason}" for reason in self.unreadable]


def tile_split(
    index: Index,
    images: Path,
    annotations: Path,
    options: TileOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TileSummary:
    """Write the tiles of all images of a split, and their COCO file.

    Boxes are clipped to the tile, and areas reduced in proportion. Crowd regions are kept whatever is visible of them.
    Segmentations are left out. An image that is not larger than a tile is copied as it is.

    Args:
        images: folder for the tiles; ``DIR/NAME_X_Y.SUFFIX`` for the tile at (X, Y) of the image ``DIR/NAME.SUFFIX``.
        annotations: COCO file to write.
        progress: called with (images done, number of images).

    Raises:
        OSError: a file cannot be written.
    """
    builder = _Builder(index, images, options)
    for number, record in enumerate(index.images, start=1):
        builder.add(record)
        progress(number, len(index.images))
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(builder.tables) + "\n")
    objects = sum(int((~record.crowd).sum()) for record in index.images)
    return TileSummary(
        images=len(index.images) - len(builder.unreadable),
        tiles=len(builder.tables["images"]),
        without_objects=builder.without_objects,
        left_out=builder.left_out,
        objects=objects,
        boxes=sum(not entry["iscrowd"] for entry in builder.tables["annotations"]),
        dropped=builder.dropped,
        lost=builder.lost,
        unreadable=builder.unreadable,
    )


class _Visible(NamedTuple):
    """Objects and crowd regions of a tile: their rows in the image, boxes ``[N, 4]`` in the tile, and areas ``[N]``."""

    rows: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


class _Builder:
    """Writes tiles and collects the tables."""

    def __init__(self, index: Index, images: Path, options: TileOptions) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": class_id, "name": name}
                for class_id, name in zip(index.category_ids, index.class_names, strict=True)
            ],
        }
        self.without_objects = self.left_out = self.dropped = self.lost = 0
        self.unreadable: list[str] = []
        self._category_ids = index.category_ids
        self._root = _common_folder(index)
        self._images = images
        self._options = options

    def add(self, record: ImageRecord) -> None:
        """Cut one image."""
        try:
            pixels = decode_image(record.path, self._options.max_pixels)
        except UnreadableImage as error:
            self.unreadable.append(str(error))
            return
        if pixels.shape[:2] != (record.height, record.width):
            self.unreadable.append(
                f"{record.path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotations are for "
                f"{record.width} x {record.height}"
            )
            return
        name = record.path.absolute().relative_to(self._root).as_posix()
        tiles = tiles_of(record.width, record.height, self._options.tile, self._options.overlap)
        seen = np.zeros(len(record.boxes), bool)
        for tile in tiles:
            visible, dropped = _visible(record, tile, self._options.min_visible)
            self.dropped += dropped
            seen[visible.rows] = True
            tile_name = name if len(tiles) == 1 else _tile_name(name, tile)
            if not len(visible.rows) and not self._keeps_empty(tile_name):
                self.left_out += 1
                continue
            self._add_tile(record, tile_name, tile, visible)
            target = self._images / tile_name
            target.parent.mkdir(parents=True, exist_ok=True)
            if len(tiles) == 1:
                shutil.copyfile(record.path, target)
            else:
                Image.fromarray(tile.crop(pixels)).save(target, quality=JPEG_QUALITY)
        self.lost += int((~seen & ~record.crowd).sum())

    def _keeps_empty(self, tile_name: str) -> bool:
        """A function of the name and the seed, so that the order of the images does not matter."""
        digest = hashlib.sha256(f"{self._options.seed} {tile_name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self._options.empty_share

    def _add_tile(self, record: ImageRecord, name: str, tile: Tile, visible: _Visible) -> None:
        image_id = len(self.tables["images"]) + 1
        self.tables["images"].append({"id": image_id, "file_name": name, "width": tile.width, "height": tile.height})
        self.without_objects += bool(record.crowd[visible.rows].all())
        for row, (x1, y1, x2, y2), area in zip(visible.rows, visible.boxes.tolist(), visible.areas, strict=True):
            entry = {
                "id": len(self.tables["annotations"]) + 1,
                "image_id": image_id,
                "category_id": self._category_ids[record.labels[row] - 1],
                "bbox": [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)],
                "area": round(float(area), DECIMALS),
                "iscrowd": int(record.crowd[row]),
            }
            self.tables["annotations"].append(entry)


def _visible(record: ImageRecord, tile: Tile, min_visible: float) -> tuple[_Visible, int]:
    """What a tile shows of an image's objects, and how many of them show too little."""
    offset = np.array([tile.x, tile.y] * 2, np.float64)
    boxes = record.boxes.astype(np.float64)
    clipped = np.clip(boxes - offset, 0, [tile.width, tile.height] * 2)
    sizes, whole = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (clipped, boxes))
    shares = sizes / whole
    kept = (shares > 0) & (record.crowd | (shares >= min_visible))
    rows = np.flatnonzero(kept)
    dropped = int(((shares > 0) & ~kept).sum())
    return _Visible(rows, clipped[rows], record.areas[rows] * shares[rows]), dropped


def _tile_name(name: str, tile: Tile) -> str:
    path = PurePosixPath(name)
    suffix = path.suffix if path.suffix.lower() in JPEG_SUFFIXES else ".png"
    return str(path.with_name(f"{path.stem}_{tile.x}_{tile.y}{suffix}"))


def _common_folder(index: Index) -> Path:
    """The folder that contains all images of a split."""
    folders = [record.path.absolute().parent for record in index.images]
    first = folders[0]
    return next(
        parent for parent in (first, *first.parents) if all(folder.is_relative_to(parent) for folder in folders)
    )
