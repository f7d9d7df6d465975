"""Assignment of images to batches: pure functions in NumPy.

Every batch has one static canvas, so that a training step is traced once per canvas. The canvases are a function of the
configuration, the order is a function of (seed, epoch), and the number of batches is the same in every epoch and on
every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from frcnn import config
from frcnn.data.coco import Index
from frcnn.data.sampling import draw_repeats, repeated_length
from frcnn.data.transforms import ORDER_STREAM, resized_size

STRIDE = 32  # canvases are multiples of P5's stride, as in torchvision


class Plan(NamedTuple):
    """Batches of one pass over the data.

    Attributes:
        positions: ``[steps, B]`` int64 into the planned images; -1 pads inference batches.
        canvases: ``[steps]`` int64, number of each batch's canvas.
        repeated: number of examples beyond one per image: repeat factors, and those that fill training batches.
    """

    positions: np.ndarray
    canvases: np.ndarray
    repeated: int


def canvases(image: config.Image) -> tuple[tuple[int, int], ...]:
    """The static canvases (height, width), pixels, by ascending area; each has its transpose.

    The short side is the largest ``min_size``, the long sides are those of ``canvas_aspects`` and of ``max_size``; both
    are rounded up to multiples of 32. An image of any shape fits one of them.
    """
    largest = max(image.min_size)
    short = _round_up(largest)
    longest = max(_round_up(image.max_size), short)
    aspects = (*image.canvas_aspects, image.max_size / largest)
    sides = {(short, min(max(_round_up(short * aspect), short), longest)) for aspect in aspects}
    both = sides | {(width, height) for height, width in sides}
    return tuple(sorted(both, key=lambda canvas: (canvas[0] * canvas[1], canvas)))


def canvas_number(height: int, width: int, image: config.Image) -> int:
    """Number of the smallest canvas that fits an image of this size after the resize at the largest ``min_size``."""
    new_height, new_width = resized_size(height, width, max(image.min_size), image.max_size, image.resize)
    for number, canvas in enumerate(canvases(image)):
        if new_height <= canvas[0] and new_width <= canvas[1]:
            return number
    raise AssertionError(f"no canvas fits {new_height} x {new_width}")  # the canvas of max_size fits every image


def canvas_numbers(index: Index, image: config.Image) -> np.ndarray:
    """:func:`canvas_number` of every image ``[N]`` int64."""
    known: dict[tuple[int, int], int] = {}
    for record in index.images:
        size = (record.height, record.width)
        if size not in known:
            known[size] = canvas_number(*size, image)
    return np.array([known[record.height, record.width] for record in index.images], np.int64)


def plan_epoch(
    numbers: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    batch_size: int,
    seed: int,
    epoch: int,
    factors: np.ndarray | None = None,
) -> Plan:
    """Global training batches of an epoch, a function of the arguments; every image occurs at least once.

    Args:
        numbers: ``[N]``, number of each image's canvas.
        sizes: the canvases by ascending area.
        batch_size: the global batch size; rank r of n reads the r-th of n equal slices of each batch.
        factors: ``[N]``, how often an epoch contains each image on average, at least 1; None: all once. The number of
            examples of each canvas is the same in every epoch.
    """
    rng = np.random.default_rng([ORDER_STREAM, seed, epoch])
    members = [np.flatnonzero(numbers == number) for number in range(len(sizes))]
    if factors is not None:
        members = [group[draw_repeats(factors[group], rng)] for group in members]
    groups = _merge_leftovers([rng.permutation(group) for group in members], sizes, batch_size)
    # np.resize repeats a group from its start: as few repetitions as possible, none twice before all are used once.
    batches = [np.resize(group, (-(-len(group) // batch_size), batch_size)) for group in groups]
    positions = np.concatenate(batches)
    of = np.repeat(np.arange(len(sizes)), [len(group_batches) for group_batches in batches])
    order = rng.permutation(len(positions))
    return Plan(positions[order], of[order], positions.size - len(numbers))


def plan_inference(
    numbers: np.ndarray, sizes: Sequence[tuple[int, int]], batch_size: int, rank: int = 0, size: int = 1
) -> Plan:
    """A rank's batches of a pass over the data; every image occurs exactly once over all ranks.

    The last batch of a canvas is padded with -1.
    Images never move to a larger canvas, whatever the batch size: group norm sees the padding, so scores would change.
    """
    groups = [np.flatnonzero(numbers == number) for number in range(len(sizes))]
    positions = np.full((sum(-(-len(group) // batch_size) for group in groups), batch_size), -1, np.int64)
    of = np.empty(len(positions), np.int64)
    row = 0
    for number, group in enumerate(groups):
        for start in range(0, len(group), batch_size):
            members = group[start : start + batch_size]
            positions[row, : len(members)] = members
            of[row] = number
            row += 1
    return Plan(positions[rank::size], of[rank::size], 0)


def batches_per_epoch(
    numbers: np.ndarray, sizes: Sequence[tuple[int, int]], batch_size: int, factors: np.ndarray | None = None
) -> int:
    """Global batches of every epoch of :func:`plan_epoch`."""
    groups = [np.flatnonzero(numbers == number) for number in range(len(sizes))]
    if factors is not None:
        groups = [np.resize(group, repeated_length(factors[group])) for group in groups]
    groups = _merge_leftovers(groups, sizes, batch_size)
    return sum(-(-len(group) // batch_size) for group in groups)


def _merge_leftovers(groups: list[np.ndarray], sizes: Sequence[tuple[int, int]], batch_size: int) -> list[np.ndarray]:
    """Move images that do not fill the last batch of their canvas to the next larger one: padding, not repetition.

    How many move depends on the group sizes alone, so that the number of batches is the same in every epoch.
    """
    groups = list(groups)
    for number, (height, width) in enumerate(sizes):
        leftover = len(groups[number]) % batch_size
        larger = (
            other
            for other in range(number + 1, len(sizes))
            if len(groups[other]) and height <= sizes[other][0] and width <= sizes[other][1]
        )
        target = next(larger, None)
        if leftover and target is not None:
            groups[target] = np.concatenate([groups[target], groups[number][-leftover:]])
            groups[number] = groups[number][:-leftover]
    return groups


def _round_up(side: float) -> int:
    # The tolerance makes 800 * (1333 / 800) count as 1333 despite rounding.
    return STRIDE * int(np.ceil(side / STRIDE - 1e-9))
