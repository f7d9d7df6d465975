"""Matching against a plain Python definition, and the properties of sampling."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.modeling import matching
from frcnn.modeling.matching import BACKGROUND, CHUNK, IGNORED, match, sample


def slow_match(
    candidates: np.ndarray, gt: np.ndarray, valid: np.ndarray, high: float, low: float, low_quality: bool
) -> list[int]:
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


def rpn_match(candidates: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> tf.Tensor:
    boxes = tf.cast(candidates, tf.float32), tf.cast(gt, tf.float32)
    return match(*boxes, tf.cast(valid, tf.bool), foreground_iou=0.7, background_iou=0.3, low_quality=True)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("slots", [1, 5, CHUNK, CHUNK + 1, 2 * CHUNK + 5, 3 * CHUNK])
@pytest.mark.parametrize("seed", range(3))
def test_match_follows_the_papers_rule(seed: int, slots: int, low_quality: bool) -> None:
    rng = np.random.default_rng(seed)
    # Integer coordinates make exact ties frequent, between candidates and between boxes.
    corner = rng.integers(0, 12, (40, 2)).astype(np.float32)
    candidates = np.concatenate([corner, corner + rng.integers(2, 7, (40, 2))], axis=1).astype(np.float32)
    gt = candidates[rng.integers(0, 40, (2, slots))] + rng.integers(0, 2, (2, slots, 4)).astype(np.float32) * [
        [[0, 0, 1, 2]]
    ]
    valid = rng.random((2, slots)) < 0.7
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


def test_candidates_may_differ_per_image() -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 12, (2, 30, 2))
    candidates = np.concatenate([corner, corner + rng.integers(2, 7, (2, 30, 2))], axis=2).astype(np.float32)
    gt = candidates[:, : CHUNK + 3] + np.array([0, 0, 1, 0], np.float32)
    valid = np.ones((2, CHUNK + 3), bool)
    got = rpn_match(candidates, gt, valid).numpy()
    for row in range(2):
        assert got[row].tolist() == slow_match(candidates[row], gt[row], valid[row], 0.7, 0.3, low_quality=True)


def test_the_first_of_equal_boxes_is_matched_also_across_chunks() -> None:
    gt = np.zeros((1, 2 * CHUNK, 4))
    gt[0, CHUNK - 1 : CHUNK + 2] = [0, 0, 8, 8]
    candidates = np.array([[0, 0, 8, 8], [50, 50, 60, 60]])
    valid = np.zeros((1, 2 * CHUNK), bool)
    valid[0, CHUNK - 1 : CHUNK + 2] = True
    assert rpn_match(candidates, gt, valid).numpy().tolist() == [[CHUNK - 1, BACKGROUND]]
    valid[0, CHUNK - 1] = False
    assert rpn_match(candidates, gt, valid).numpy().tolist() == [[CHUNK, BACKGROUND]]


def test_a_low_quality_match_goes_to_the_candidates_best_box_in_another_chunk() -> None:
    """Candidate 0 has IoU 40/90 with box 0, below the threshold, and is the best of the last box with 16/164.

    So it is matched, and to box 0. Candidate 1 is the best of box 0 with 50/80; candidate 2 overlaps no box.
    """
    gt = np.zeros((1, CHUNK + 1, 4))
    gt[0, 0], gt[0, CHUNK] = [4, 0, 9, 10], [0, 8, 10, 18]
    candidates = np.array([[0, 0, 8, 10], [4, 0, 12, 10], [40, 40, 44, 44]])
    valid = np.zeros((1, CHUNK + 1), bool)
    valid[0, 0] = True
    assert rpn_match(candidates, gt, valid).numpy().tolist() == [[IGNORED, 0, BACKGROUND]]
    valid[0, CHUNK] = True
    assert rpn_match(candidates, gt, valid).numpy().tolist() == [[0, 0, BACKGROUND]]


def test_only_chunks_up_to_the_last_valid_box_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    iou = matching.box_ops.iou

    def recorded(*boxes: tf.Tensor) -> tf.Tensor:
        shapes.append(tuple(iou(*boxes).shape))
        return iou(*boxes)

    monkeypatch.setattr(matching.box_ops, "iou", recorded)
    rng = np.random.default_rng(0)
    candidates, gt = rng.uniform(0, 9, (30, 4)), rng.uniform(0, 9, (2, 50 * CHUNK, 4))
    for count, chunks in [(0, 0), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), (50 * CHUNK, 50)]:
        valid = np.arange(50 * CHUNK) < np.array([[count // 2], [count]])
        shapes.clear()
        rpn_match(candidates, gt, valid)
        assert shapes == [(2, CHUNK, 30)] * chunks


def test_one_trace_handles_any_number_of_boxes_and_equals_the_eager_result() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (60, 2))
    candidates = tf.constant(np.concatenate([corner, corner + rng.uniform(5, 20, (60, 2))], axis=1), tf.float32)
    gt = tf.gather(candidates, rng.integers(0, 60, (2, 3 * CHUNK))) + tf.constant([0.0, 0.0, 2.0, 3.0])
    in_graph = tf.function(rpn_match)
    for count in (0, 3, CHUNK, 2 * CHUNK + 1, 3 * CHUNK):
        valid = tf.constant(np.arange(3 * CHUNK) < np.array([[count], [count // 2]]))
        matches = in_graph(candidates, gt, valid)
        assert matches.shape == (2, 60)
        np.testing.assert_array_equal(matches, rpn_match(candidates, gt, valid))
        assert (count > 0) == bool((matches.numpy() >= 0).any())
    assert in_graph.experimental_get_tracing_count() == 1


def test_no_gradient_passes_through_the_matching() -> None:
    candidates = tf.constant([[0, 0, 8, 8], [20, 20, 28, 29]], tf.float32)
    gt = tf.constant([[[20, 20, 28, 28], [1, 0, 8, 8]] + [[0, 0, 0, 0]] * CHUNK], tf.float32)
    valid = tf.constant([[True, True] + [False] * CHUNK])

    @tf.function
    def gradient(candidates: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(candidates)
            target = tf.gather(gt, rpn_match(candidates, gt, valid), batch_dims=1)
            loss = tf.reduce_sum((candidates - target) ** 2)
        return tape.gradient(loss, candidates)

    np.testing.assert_array_equal(gradient(candidates), [[-2, 0, 0, 0], [0, 0, 0, 2]])


def test_candidates_of_an_image_without_objects_are_background() -> None:
    candidates = tf.constant([[0, 0, 4, 4], [2, 2, 9, 9]], tf.float32)
    got = match(
        candidates,
        tf.zeros([1, 3, 4]),
        tf.zeros([1, 3], tf.bool),
        foreground_iou=0.7,
        background_iou=0.3,
        low_quality=True,
    )
    assert got.numpy().tolist() == [[BACKGROUND, BACKGROUND]]


def test_crowd_regions_match_nothing() -> None:
    box = tf.constant([[[0, 0, 8, 8], [0, 0, 8, 8]]], tf.float32)
    got = match(
        box[0, :1], box, tf.constant([[False, True]]), foreground_iou=0.5, background_iou=0.5, low_quality=False
    )
    assert got.numpy().tolist() == [[1]]


def draw_sample(
    matches: list[list[int]], count: int, fraction: float, seed: int = 0, usable: list[list[bool]] | None = None
):
    seeds = tf.constant([[seed, 7]] * len(matches))
    return sample(
        tf.constant(matches),
        tf.constant(usable) if usable else None,
        count=count,
        positive_fraction=fraction,
        seed=seeds,
    )


def test_sample_is_limited_in_positives_and_filled_with_negatives() -> None:
    matches = [[0] * 30 + [BACKGROUND] * 60 + [IGNORED] * 10]
    sampled = draw_sample(matches, count=40, fraction=0.25)
    chosen = sampled.indices.numpy()[0]
    assert len(set(chosen.tolist())) == 40
    assert sampled.valid.numpy().all()
    assert sampled.positive.numpy()[0].tolist() == [True] * 10 + [False] * 30
    assert (chosen[:10] < 30).all()
    assert ((chosen[10:] >= 30) & (chosen[10:] < 90)).all()


def test_sample_takes_more_negatives_when_positives_are_few() -> None:
    sampled = draw_sample([[0, 0] + [BACKGROUND] * 50], count=20, fraction=0.5)
    assert sampled.positive.numpy().sum() == 2
    assert sampled.valid.numpy().sum() == 20


def test_entries_that_cannot_be_filled_are_invalid() -> None:
    sampled = draw_sample(
        [[0, BACKGROUND, IGNORED, BACKGROUND]], count=4, fraction=0.5, usable=[[True, True, True, False]]
    )
    assert sorted(sampled.indices.numpy()[0][sampled.valid.numpy()[0]].tolist()) == [0, 1]
    assert sampled.valid.numpy().sum() == 2


def test_sample_is_a_uniform_function_of_the_seed() -> None:
    matches = [[0] * 10 + [BACKGROUND] * 10]
    again = [draw_sample(matches, 4, 0.5, seed=3).indices.numpy().tolist() for _ in range(2)]
    assert again[0] == again[1]
    hits = np.zeros(20)
    for seed in range(400):
        hits[draw_sample(matches, 4, 0.5, seed=seed).indices.numpy()[0]] += 1
    # Each of 10 positives (and negatives) is drawn with probability 0.2: 80 of 400, standard deviation 8.
    assert (abs(hits - 80) < 40).all()


def test_sample_of_an_image_does_not_depend_on_its_batch() -> None:
    matches = [[0] * 10 + [BACKGROUND] * 30]
    seeds = tf.constant([[1, 7], [2, 7], [3, 7]])
    together = sample(tf.constant(matches * 3), None, count=8, positive_fraction=0.5, seed=seeds).indices.numpy()
    alone = [
        sample(tf.constant(matches), None, count=8, positive_fraction=0.5, seed=seeds[i : i + 1]).indices.numpy()[0]
        for i in range(3)
    ]
    np.testing.assert_array_equal(together, alone)
    assert len({row.tobytes() for row in together}) == 3
