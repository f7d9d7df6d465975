"""Which images an epoch contains and how often: a fixed share of them, and repeat-factor sampling."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np

from frcnn.data.coco import Index
from frcnn.data.transforms import FRACTION_STREAM


def take_fraction(index: Index, fraction: float, seed: int) -> Index:
    """The index with a random share of its images, at least one: a function of (seed, number of images).

    Shares are nested: with the same seed, the images of a smaller one are among those of a larger one.
    """
    count = max(round(fraction * len(index.images)), 1)
    chosen = np.sort(np.random.default_rng([FRACTION_STREAM, seed]).permutation(len(index.images))[:count])
    return dataclasses.replace(index, images=tuple(index.images[position] for position in chosen))


def take_validation_fraction(index: Index, fraction: float) -> Index:
    """The same for a validation split, whatever the seed of the run, with another fingerprint: values on other images.

    Runs with other seeds are compared on the same images.
    """
    taken = take_fraction(index, fraction, seed=0)
    fingerprint = hashlib.sha256(f"{len(taken.images)} of {index.fingerprint}".encode()).hexdigest()
    return dataclasses.replace(taken, fingerprint=fingerprint)


def repeat_factors(index: Index, threshold: float) -> np.ndarray:
    """How often an epoch contains each image on average, ``[N]`` float64, at least 1 (Gupta et al. 2019, LVIS).

    A class that occurs in a share f of the images has the factor ``max(1, sqrt(threshold / f))``, an image the largest
    of its classes. Crowd regions do not count.
    """
    classes = [np.unique(record.labels[~record.crowd]) for record in index.images]
    occurrences = np.bincount(np.concatenate([np.zeros(0, np.int64), *classes]), minlength=1)
    share = np.maximum(occurrences, 1) / len(index.images)
    of_class = np.maximum(1.0, np.sqrt(threshold / share))
    return np.array([of_class[present].max(initial=1.0) for present in classes])


def draw_repeats(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions ``[repeated_length(factors)]`` in ascending order, each as often as its factor says on average.

    Systematic sampling: each factor is rounded down or up at random, in such a way that the number of positions is
    always the same. Independent rounding would give every epoch another number of steps.
    """
    total = repeated_length(factors)
    ends = np.cumsum(factors)
    ends *= total / ends[-1] if total else 1.0
    ends[-1:] = total  # exactly
    counts = np.diff(np.floor(ends + rng.random()), prepend=0.0)
    return np.repeat(np.arange(len(factors)), counts.astype(np.int64))


def repeated_length(factors: np.ndarray) -> int:
    """Number of examples of an epoch: the sum of the factors, rounded up."""
    return math.ceil(math.fsum(factors.tolist()))  # fsum: the same on every host, whatever its vector instructions
