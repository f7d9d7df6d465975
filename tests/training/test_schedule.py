"""Learning rates against values computed by hand."""

from __future__ import annotations

import math

import pytest

from frcnn.config import Optimizer
from frcnn.training.schedule import WarmupSchedule


def test_warmup_is_linear_from_its_factor_to_the_scaled_peak() -> None:
    schedule = WarmupSchedule(
        Optimizer(learning_rate=0.02, base_batch_size=16, warmup_steps=100, warmup_factor=0.1),
        batch_size=8,
        total_steps=1000,
    )
    rates = [float(schedule(step)) for step in (0, 50, 100, 500)]
    assert rates == pytest.approx([0.001, 0.0055, 0.01, 0.01], rel=1e-5)


def test_multistep_decays_at_its_milestones() -> None:
    options = Optimizer(learning_rate=1.0, base_batch_size=16, warmup_steps=0, milestones=(0.5, 0.75), gamma=0.1)
    schedule = WarmupSchedule(options, batch_size=16, total_steps=200)
    rates = [float(schedule(step)) for step in (0, 99, 100, 149, 150, 199)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-5)


def test_cosine_ends_at_its_final_rate() -> None:
    options = Optimizer(learning_rate=1.0, base_batch_size=16, warmup_steps=0, schedule="cosine", final_rate=0.2)
    schedule = WarmupSchedule(options, batch_size=16, total_steps=100)
    expected = [1.0, 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2, 0.6, 0.2]
    assert [float(schedule(step)) for step in (0, 25, 50, 100)] == pytest.approx(expected, rel=1e-5)
