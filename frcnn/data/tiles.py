"""Overlapping tiles of an image, the same for cutting datasets and for detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the command line reads the default
    import numpy as np

DEFAULT_OVERLAP = 0.2


class Tile(NamedTuple):
    """A rectangle of an image, pixels."""

    x: int
    y: int
    width: int
    height: int

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The rectangle of an image ``[H, W, 3]``, without a copy."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


def tiles_of(width: int, height: int, tile: int, overlap: float = DEFAULT_OVERLAP) -> list[Tile]:
    """Tiles that cover an image, row by row; all of one size, and spread evenly.

    An object of at most ``overlap * tile`` pixels is whole in at least one of them.

    Args:
        tile: side in pixels; a side of the image that is shorter is not divided.
        overlap: minimum share of a tile that its neighbor covers as well, in [0, 1).
    """
    return [
        Tile(x, y, min(tile, width), min(tile, height))
        for y in _starts(height, tile, overlap)
        for x in _starts(width, tile, overlap)
    ]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where the tiles begin along one side of the image."""
    if side <= tile:
        return [0]
    # Rounded down, so that the rounded distances between tiles do not exceed it.
    stride = max(int(tile * (1 - overlap)), 1)
    count = -(-(side - tile) // stride) + 1
    return [round(number * (side - tile) / (count - 1)) for number in range(count)]
