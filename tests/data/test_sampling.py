"""Repeat-factor sampling and shares of the data, against values by hand and properties."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.config import Config, load_config
from frcnn.data.coco import Index, load_index
from frcnn.data.pipeline import steps_per_epoch, training_batches
from frcnn.data.plan import batches_per_epoch, plan_epoch
from frcnn.data.sampling import draw_repeats, repeat_factors, repeated_length, take_fraction
from frcnn.data.shapes import make_shapes
from frcnn.training.shard import load_splits

SIZES = ((320, 320), (320, 448), (448, 320))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=20, seed=0)


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return load_index(folder / "train", folder / "annotations" / "instances_train.json")


def test_factors_by_hand(index: Index) -> None:
    """16 images: class 1 in all, class 2 in four, class 3 in one; a crowd region of class 3 counts for nothing."""
    labels = [[1]] * 11 + [[1, 2]] * 3 + [[1, 2, 3, 3]] + [[1, 3]]
    crowd = [[False] * len(one) for one in labels]
    crowd[-1][1] = True
    records = [
        replace(record, labels=np.array(one), crowd=np.array(marks), boxes=np.zeros((len(one), 4), np.float32))
        for record, one, marks in zip(index.images, labels, crowd, strict=True)
    ]
    found = repeat_factors(replace(index, images=tuple(records)), 0.5)
    root2, root8 = 2**0.5, 8**0.5  # sqrt(0.5 / (4 / 16)), sqrt(0.5 / (1 / 16))
    np.testing.assert_allclose(found, [1.0] * 11 + [root2] * 3 + [root8, 1.0])
    np.testing.assert_array_equal(repeat_factors(replace(index, images=tuple(records)), 0.01), np.ones(16))


@given(st.lists(st.floats(1.0, 9.0), max_size=30), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_each_position_is_repeated_about_as_often_as_its_factor(factors: list[float], seed: int) -> None:
    values = np.array(factors)
    drawn = draw_repeats(values, np.random.default_rng(seed))
    assert len(drawn) == repeated_length(values)
    counts = np.bincount(drawn, minlength=len(values))
    scaled = values * (len(drawn) / values.sum()) if factors else values
    assert (counts >= np.floor(scaled - 1e-6)).all()
    assert (counts <= np.ceil(scaled + 1e-6)).all()


def test_repeats_have_the_expected_mean() -> None:
    factors = np.array([1.0, 1.25, 2.5, 1.0, 3.25])  # sum 9
    counts = np.zeros(5)
    for seed in range(2000):
        counts += np.bincount(draw_repeats(factors, np.random.default_rng(seed)), minlength=5)
    np.testing.assert_allclose(counts / 2000, factors, atol=0.05)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(1.0, 5.0)), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_epochs_have_one_length_and_contain_every_image(images: list[tuple[int, float]], batch: int, seed: int) -> None:
    numbers, factors = np.array([number for number, _ in images]), np.array([factor for _, factor in images])
    steps = batches_per_epoch(numbers, SIZES, batch, factors)
    for epoch in range(3):
        plan = plan_epoch(numbers, SIZES, batch, seed, epoch, factors)
        assert plan.positions.shape == (steps, batch)
        counts = Counter(plan.positions.ravel().tolist())
        assert set(counts) == set(range(len(numbers)))
        again = plan_epoch(numbers, SIZES, batch, seed, epoch, factors)
        np.testing.assert_array_equal(plan.positions, again.positions)


def test_factors_of_one_leave_the_epoch_as_long_as_without() -> None:
    numbers = np.repeat([0, 1, 2], 7)
    assert batches_per_epoch(numbers, SIZES, 4, np.ones(21)) == batches_per_epoch(numbers, SIZES, 4)
    plan = plan_epoch(numbers, SIZES, 4, 0, 0, np.ones(21))
    assert plan.repeated == plan_epoch(numbers, SIZES, 4, 0, 0).repeated


def options(*overrides: str) -> Config:
    return load_config(
        None,
        ["image.min_size=[64]", "image.max_size=64", "image.canvas_aspects=[1.0]", "training.batch_size=4", *overrides],
    )


def test_ranks_and_resumed_runs_read_the_same_batches(index: Index) -> None:
    config = options("data.repeat_threshold=1.0")
    steps = steps_per_epoch(index, config)
    assert steps > steps_per_epoch(index, options())

    def ids(start: int, rank: int, size: int) -> list[int]:
        batches = training_batches(index, config, rank=rank, size=size, start_step=start)
        return np.concatenate([next(batches).image_ids.numpy() for _ in range(2)]).tolist()

    whole, first, second = ids(steps, 0, 1), ids(steps, 0, 2), ids(steps, 1, 2)
    assert whole == first[:2] + second[:2] + first[2:] + second[2:]
    assert whole[4:] == ids(steps + 1, 0, 1)[:4]
    assert set(ids(steps + 1, 0, 1)[:4]) <= {record.image_id for record in index.images}


def test_a_fraction_is_fixed_by_the_seed_and_nested(index: Index, folder: Path) -> None:
    def chosen(fraction: float, seed: int) -> list[int]:
        return [record.image_id for record in take_fraction(index, fraction, seed).images]

    assert len(chosen(0.25, 0)) == 4
    assert len(chosen(0.001, 0)) == 1
    assert chosen(0.25, 0) == chosen(0.25, 0) == sorted(chosen(0.25, 0))
    assert set(chosen(0.25, 0)) < set(chosen(0.5, 0)) < set(chosen(1.0, 0))
    assert chosen(0.25, 0) != chosen(0.25, 1)
    messages: list[str] = []
    train, validation = load_splits(options(f"data.root={folder}", "data.fraction=0.25"), messages)
    assert [record.image_id for record in train.images] == chosen(0.25, 0)
    assert validation is not None
    assert len(validation.images) == 4
    assert "training on 4 of 16 images (data.fraction=0.25)" in messages
    fewer = [f"data.root={folder}", "data.validation_fraction=0.5"]
    (_, half), (_, again) = (load_splits(options(*fewer, f"seed={seed}"), messages) for seed in (0, 1))
    assert half is not None
    assert again is not None
    assert half.fingerprint == again.fingerprint != validation.fingerprint
    kept, same = ({record.image_id for record in part.images} for part in (half, again))
    assert kept == same < {record.image_id for record in validation.images}
    assert "evaluating on 2 of 4 validation images (data.validation_fraction=0.5)" in messages
