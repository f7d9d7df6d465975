"""Matching against a plain Python definition, and sampling's promises."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.modeling.matching import BACKGROUND, IGNORED, match, sample


def slow_match(candidates: np.ndarray, gt: np.ndarray, valid: np.ndarray, high: float, low: float, low_quality: bool) -> list[int]:
    """Ren et al. 2015, section 3.1.2, one candidate at a time."""
    objects = [j for j in range(len(gt)) if valid[j]]
    table = {(i, j): slow_iou(candidates[i], gt[j]) for i in range(len(candidates)) for j in objects}
    result = []
    for i in range(len(candidates)):
        best, index = max(((table[i, j], -j) for j in objects), default=(-1.0, 0))
        result.append(-index if best >= high else BACKGROUND if best < low else IGNORED)
    if low_quality:
        for j in objects:
            best = max(table[i, j] for i in range(len(candidates)))
            for i in range(len(candidates)):
                if best > 0 and table[i, j] == best:
                    result[i] = -max((table[i, k], -k) for k in objects)[1]
    return result


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_match_is_the_papers_rule(seed: int, low_quality: bool) -> None:
    rng = np.random.default_rng(seed)
    # Whole coordinates make exact ties between candidates frequent.
    corner = rng.integers(0, 12, (40, 2)).astype(np.float32)
    candidates = np.concatenate([corner, corner + rng.integers(2, 7, (40, 2))], axis=1).astype(np.float32)
    gt = candidates[rng.integers(0, 40, (2, 5))] + rng.integers(0, 2, (2, 5, 4)).astype(np.float32) * [[[0, 0, 1, 2]]]
    valid = rng.random((2, 5)) < 0.7
    got = match(
        tf.constant(candidates),
        tf.constant(gt, tf.float32),
        tf.constant(valid),
        foreground_iou=0.7,
        background_iou=0.3,
        low_quality=low_quality,
    ).numpy()
    for row in range(2):
        assert got[row].tolist() == slow_match(candidates, gt[row], valid[row], 0.7, 0.3, low_quality)


def test_image_without_objects_is_all_background() -> None:
    candidates = tf.constant([[0, 0, 4, 4], [2, 2, 9, 9]], tf.float32)
    got = match(candidates, tf.zeros([1, 3, 4]), tf.zeros([1, 3], tf.bool), foreground_iou=0.7, background_iou=0.3, low_quality=True)
    assert got.numpy().tolist() == [[BACKGROUND, BACKGROUND]]


def test_crowd_regions_match_nothing() -> None:
    box = tf.constant([[[0, 0, 8, 8], [0, 0, 8, 8]]], tf.float32)
    got = match(box[0, :1], box, tf.constant([[False, True]]), foreground_iou=0.5, background_iou=0.5, low_quality=False)
    assert got.numpy().tolist() == [[1]]


def draw(matches: list[list[int]], count: int, fraction: float, seed: int = 0, usable: list[list[bool]] | None = None):
    seeds = tf.constant([[seed, 7]] * len(matches))
    return sample(tf.constant(matches), tf.constant(usable) if usable else None, count=count, positive_fraction=fraction, seed=seeds)


def test_sample_takes_the_allowed_positives_and_fills_with_negatives() -> None:
    matches = [[0] * 30 + [BACKGROUND] * 60 + [IGNORED] * 10]
    drawn = draw(matches, count=40, fraction=0.25)
    chosen = drawn.indices.numpy()[0]
    assert len(set(chosen.tolist())) == 40
    assert drawn.valid.numpy().all()
    assert drawn.positive.numpy()[0].tolist() == [True] * 10 + [False] * 30
    assert (chosen[:10] < 30).all()
    assert ((chosen[10:] >= 30) & (chosen[10:] < 90)).all()


def test_sample_takes_more_negatives_where_positives_are_few() -> None:
    drawn = draw([[0, 0] + [BACKGROUND] * 50], count=20, fraction=0.5)
    assert drawn.positive.numpy().sum() == 2
    assert drawn.valid.numpy().sum() == 20


def test_sample_says_what_it_could_not_fill() -> None:
    drawn = draw([[0, BACKGROUND, IGNORED, BACKGROUND]], count=4, fraction=0.5, usable=[[True, True, True, False]])
    assert sorted(drawn.indices.numpy()[0][drawn.valid.numpy()[0]].tolist()) == [0, 1]
    assert drawn.valid.numpy().sum() == 2


def test_sample_is_a_function_of_the_seed_and_uniform() -> None:
    matches = [[0] * 10 + [BACKGROUND] * 10]
    again = [draw(matches, 4, 0.5, seed=3).indices.numpy().tolist() for _ in range(2)]
    assert again[0] == again[1]
    hits = np.zeros(20)
    for seed in range(400):
        hits[draw(matches, 4, 0.5, seed=seed).indices.numpy()[0]] += 1
    # Each of 10 positives (and negatives) is drawn with probability 0.2: 80 of 400, standard deviation 8.
    assert (abs(hits - 80) < 40).all()


def test_draw_of_an_image_does_not_depend_on_its_batch() -> None:
    matches = [[0] * 10 + [BACKGROUND] * 30]
    seeds = tf.constant([[1, 7], [2, 7], [3, 7]])
    together = sample(tf.constant(matches * 3), None, count=8, positive_fraction=0.5, seed=seeds).indices.numpy()
    alone = [sample(tf.constant(matches), None, count=8, positive_fraction=0.5, seed=seeds[i : i + 1]).indices.numpy()[0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)
    assert len({row.tobytes() for row in together}) == 3
