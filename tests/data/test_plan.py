from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.config import Image
from frcnn.data.plan import batches_per_epoch, canvas_number, canvases, plan_epoch, plan_inference
from frcnn.data.transforms import resized_size


def canvas(height: int, width: int, image: Image) -> tuple[int, int]:
    return canvases(image)[canvas_number(height, width, image)]


def test_canvases_of_the_reference_recipe() -> None:
    assert set(canvases(Image())) == {
        (800, 800),
        (800, 1088),
        (1088, 800),
        (800, 1216),
        (1216, 800),
        (800, 1344),
        (1344, 800),
    }


def test_canvases_by_hand() -> None:
    image = Image(min_size=(320,), max_size=533)
    assert canvas(480, 640, image) == (320, 448)
    assert canvas(640, 480, image) == (448, 320)
    assert canvas(500, 500, image) == (320, 320)
    assert canvas(300, 900, image) == (320, 544)
    assert canvases(Image(min_size=(320,), max_size=320)) == ((320, 320),)
    assert canvases(Image(min_size=(64, 100), max_size=128, canvas_aspects=())) == ((128, 128),)
    assert canvases(Image(min_size=(300,), max_size=500, canvas_aspects=(1.0, 2.5))) == (
        (320, 320),
        (320, 512),
        (512, 320),
    )


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.integers(16, 900),
    st.floats(1.0, 4.0),
    st.sampled_from(["bilinear", "pillow"]),
    st.lists(st.floats(1.0, 3.0), max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_every_image_gets_the_smallest_canvas_that_fits(
    height: int, width: int, min_size: int, aspect: float, resize: str, aspects: list[float]
) -> None:
    image = Image(min_size=(min_size,), max_size=int(min_size * aspect), resize=resize, canvas_aspects=tuple(aspects))
    chosen = canvas(height, width, image)
    new_height, new_width = resized_size(height, width, min_size, image.max_size, resize)
    holding = [size for size in canvases(image) if size[0] >= new_height and size[1] >= new_width]
    assert chosen in holding
    assert chosen[0] * chosen[1] == min(size[0] * size[1] for size in holding)
    assert all(side % 32 == 0 for size in canvases(image) for side in size)


SIZES = ((320, 320), (320, 448), (448, 320), (320, 544), (544, 320))
fits = {(a, b): SIZES[a][0] <= SIZES[b][0] and SIZES[a][1] <= SIZES[b][1] for a in range(5) for b in range(5)}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_epoch_contains_every_image_on_a_canvas_that_fits(
    numbers: list[int], batch: int, seed: int, epoch: int
) -> None:
    plan = plan_epoch(np.array(numbers), SIZES, batch, seed, epoch)
    assert plan.positions.shape == (batches_per_epoch(np.array(numbers), SIZES, batch), batch)
    counts = Counter(plan.positions.ravel().tolist())
    assert set(counts) == set(range(len(numbers)))
    assert plan.repeated == plan.positions.size - len(numbers)
    for positions, number in zip(plan.positions, plan.canvases, strict=True):
        assert all(fits[numbers[position], number] for position in positions)
    assert set(plan.canvases.tolist()) <= set(numbers)
    again = plan_epoch(np.array(numbers), SIZES, batch, seed, epoch)
    np.testing.assert_array_equal(plan.positions, again.positions)


def test_leftovers_move_to_larger_canvases_instead_of_being_repeated() -> None:
    numbers = np.array([0] * 5 + [1] * 6 + [3] * 5)  # 16 images that fit four batches of 4
    plan = plan_epoch(numbers, SIZES, 4, 0, 0)
    assert len(plan.positions) == 4
    assert plan.repeated == 0
    assert Counter(plan.canvases.tolist()) == {0: 1, 1: 1, 3: 2}


def test_few_images_are_repeated_evenly() -> None:
    plan = plan_epoch(np.zeros(3, int), SIZES, 8, 0, 0)
    assert plan.repeated == 5
    assert sorted(Counter(plan.positions.ravel().tolist()).values()) == [2, 3, 3]


def test_epochs_and_seeds_differ_and_canvases_are_mixed() -> None:
    numbers = np.repeat([0, 1, 2], 40)
    plans = [plan_epoch(numbers, SIZES, 4, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({plan.positions.tobytes() for plan in plans}) == 3
    changes = np.count_nonzero(np.diff(plans[0].canvases))
    assert changes > 10  # sorted by canvas there would be two


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_inference_contains_every_image_once_over_the_ranks(numbers: list[int], batch: int, size: int) -> None:
    plans = [plan_inference(np.array(numbers, np.int64), SIZES, batch, rank, size) for rank in range(size)]
    found = np.concatenate([plan.positions.ravel() for plan in plans])
    assert sorted(found[found >= 0].tolist()) == list(range(len(numbers)))
    counts = [len(plan.positions) for plan in plans]
    assert max(counts) - min(counts) <= 1
    for plan in plans:
        for row, canvas in zip(plan.positions, plan.canvases, strict=True):
            members = row[row >= 0]
            assert len(members)
            assert {numbers[member] for member in members} == {canvas}


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_an_epoch_of_coco_repeats_little(batch: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 5, 118_000)
    plan = plan_epoch(numbers, SIZES, batch, 0, 0)
    assert plan.repeated <= 4 * batch
