"""Runs that end at a time of the clock: the rule with a clock by hand, and runs that are ended and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from runs import records, variables

from frcnn.config import Config
from frcnn.training.time_limit import TimeLimit
from frcnn.training.trainer import Trainer

MakeConfig = Callable[..., Config]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def steps_until_reached(limit: TimeLimit, clock: Clock, seconds: float) -> int:
    """Steps of a number of seconds until there is no time for more."""
    for count in range(1, 1000):
        reached = limit.reached(4)
        clock.now += seconds
        if reached:
            return count
    raise AssertionError


def test_the_last_evaluation_has_time() -> None:
    clock = Clock()
    limit = TimeLimit(10, 0.0, 40, clock=clock)
    # 600 s; steps of 4 images take 5 s, and 40 images of evaluation are taken to need 50 s, and tracing as long as the
    # slowest step: 1.3 * 50 + 5 + 2 * 5 = 80.
    taken = steps_until_reached(limit, clock, 5.0)
    assert (taken, limit.used(), limit.left()) == (106, 530.0, 70.0)
    # An evaluation that was measured counts instead: 1.3 * 20 + 2 * 5 = 36.
    clock = Clock()
    limit = TimeLimit(10, 0.0, 40, clock=clock)
    limit.reached(4)
    clock.now += 5.0
    with limit.evaluating():
        clock.now += 20.0
    assert (steps_until_reached(limit, clock, 5.0), limit.used()) == (109, 570.0)


def test_two_last_evaluations_have_time_or_the_second_is_refused() -> None:
    clock = Clock()
    limit = TimeLimit(10, 0.0, 40, passes=2, clock=clock)
    # 1.3 * 2 * 50 + 5 + 2 * 5 = 145: the first step that starts after 455 s is the last.
    assert (steps_until_reached(limit, clock, 5.0), limit.left()) == (93, 135.0)
    with limit.evaluating():
        clock.now += 58.0
        assert limit.can_repeat()  # 77 s left, 1.3 * 58 = 75.4
        clock.now += 1.0
        assert not limit.can_repeat()
    unlimited = TimeLimit(None, 0.0, 40, passes=2, clock=clock)
    with unlimited.evaluating():
        clock.now += 1e6
        assert unlimited.can_repeat()


def test_tracing_the_detector_has_time() -> None:
    """A first step of 41 s, others of 1 s, and an evaluation as long as a step."""
    clock = Clock()
    limit = TimeLimit(10, 0.0, 4, clock=clock)
    limit.reached(4)
    clock.now += 41.0
    taken = steps_until_reached(limit, clock, 1.0)
    # After 41 + n seconds and n + 1 steps: 600 - 41 - n < 41 + 3.3 * (41 + n) / (n + 1) from n = 515 on.
    assert (taken, limit.left()) == (516, 43.0)


def test_a_step_that_was_traced_is_not_taken_for_the_time_of_the_others() -> None:
    """With the mean of 41 and 1 s, 80 images of evaluation would take 420 s, and the run would end after two steps."""
    clock = Clock()
    limit = TimeLimit(5, 0.0, 80, clock=clock)
    limit.reached(4)
    clock.now += 41.0
    # 300 - 41 - n < 41 + 2 * 1 + 1.3 * 20 from n = 191 on.
    assert steps_until_reached(limit, clock, 1.0) == 192


def test_an_evaluation_without_time_for_another_one_becomes_the_last() -> None:
    """Steps of 1 s, evaluations of 20 s: 2 + 1.3 * 20 before any other step, 2 + 1.3 * 40 before one that evaluates."""
    clock = Clock()
    limit = TimeLimit(10, 0.0, 40, clock=clock)
    for _ in range(3):
        limit.reached(4)
        clock.now += 1.0
    with limit.evaluating():
        clock.now += 20.0
    clock.now += 520.0  # 57 s are left
    assert (limit.reached(4, evaluates=True), limit.reached(4, evaluates=False)) == (False, False)
    clock.now += 3.5
    assert (limit.reached(4, evaluates=True), limit.reached(4, evaluates=False)) == (True, False)


def test_earlier_parts_of_a_run_count_and_no_limit_is_never_reached() -> None:
    clock = Clock()
    limit = TimeLimit(10, 300.0, 0, clock=clock)
    assert (limit.left(), steps_until_reached(limit, clock, 5.0)) == (300.0, 60)
    limit = TimeLimit(None, 300.0, 0, clock=clock)
    assert limit.left() is None
    assert not any(limit.reached(4) for _ in range(10))


def test_an_ended_run_is_evaluated_stays_ended_and_resumes_with_more_time(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_config(tmp_path, "training.max_minutes=60"))
    reached = trainer.time_limit.reached
    trainer.time_limit.reached = lambda *given: reached(*given) or trainer.step == 7  # type: ignore[method-assign]
    trainer.run()
    assert (trainer.step, trainer.finished) == (8, True)
    evaluations = records(tmp_path, "evaluation")
    assert [(record["step"], "raw_AP" in record) for record in evaluations] == [(6, False), (8, True)]
    assert trainer.best.value == max(evaluations[0]["AP"], evaluations[1]["AP"], evaluations[1]["raw_AP"])
    assert json.loads((trainer.folders.model / "metrics.json").read_text())["step"] in (6, 8)
    # For early stopping, only the evaluation that the options ask for counts.
    assert (trainer.best.waited, trainer.best.reference) == (0, evaluations[0]["AP"])
    again = Trainer(trainer.config)
    assert (again.step, again.finished) == (8, True)
    assert again.time_limit.used() > 0
    # The schedule does not depend on the limit: with more time the run ends as one that never had a limit.
    longer = Trainer(tiny_config(tmp_path, "training.max_minutes=61"))
    assert not longer.finished
    longer.run()
    assert (longer.step, longer.finished) == (12, True)
    expected, got = variables(unbroken), variables(longer)
    assert all((got[name] == value).all() for name, value in expected.items())
