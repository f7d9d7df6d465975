"""Images to label next: the least certain ones, and no two of a kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from frcnn.prediction.uncertain import choose, uncertainty


@pytest.mark.parametrize(
    ("scores", "threshold", "bits"),
    [
        ([], 0.5, 0),
        ([0.5], 0.5, 1 / 3),
        ([0.5, 0.5, 0.5], 0.5, 1),
        ([0.5, 0.5, 0.5, 0.5, 0.01], 0.5, 1),  # more than three do not count
        ([0.2, 0.2, 0.2], 0.2, 1),
        ([0.0, 1.0, 1.0], 0.5, 0),
        ([0.75] * 3, 0.5, 0.25 * 2 + 0.75 * math.log2(4 / 3)),
        # Odds of 1 are four times those of a threshold of 0.2: 4 in 5.
        ([0.5] * 3, 0.2, 0.2 * math.log2(5) + 0.8 * math.log2(5 / 4)),
    ],
)
def test_uncertainty_is_the_entropy_of_the_three_scores_nearest_to_the_threshold(
    scores: list[float], threshold: float, bits: float
) -> None:
    assert uncertainty(np.array(scores), threshold) == pytest.approx(bits, abs=1e-6)


def test_thresholds_may_differ_by_detection() -> None:
    assert uncertainty(np.array([0.3, 0.6, 0.9]), np.array([0.3, 0.6, 0.9])) == pytest.approx(1)


def test_near_duplicates_are_not_chosen_twice() -> None:
    features = np.array([[0, 0], [0, 0.001], [1, 0], [0, 1]], float)
    uncertainties = np.array([0.9, 0.89, 0.5, 0.4])
    assert choose(uncertainties, features, 3) == [0, 2, 3]
    assert sorted(choose(uncertainties, features, 10)) == [0, 1, 2, 3]


def test_the_choice_maximizes_uncertainty_times_distance_at_each_step() -> None:
    rng = np.random.default_rng(0)
    uncertainties, features = rng.random(30), rng.normal(size=(30, 5))
    chosen = choose(uncertainties, features, 8)
    assert chosen[0] == np.argmax(uncertainties)
    for step in range(1, 8):
        gains = {
            row: uncertainties[row] * min(np.linalg.norm(features[row] - features[other]) for other in chosen[:step])
            for row in set(range(30)) - set(chosen[:step])
        }
        assert chosen[step] == max(gains, key=gains.__getitem__)
