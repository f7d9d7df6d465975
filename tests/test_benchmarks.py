"""The arithmetic of the benchmarks; their timings are not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import measuring
from measuring import Times, alternate, peak_programs, peak_rates, top_operations, warn_of_spread
from random_batch import random_batch
from request_parts import parts_of, read_stages, shares_of


def test_programs_run_in_turn_and_their_medians_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    calls: list[str] = []
    durations = {"fast": iter([9, 9, 1, 1, 1, 1, 1]), "slow": iter([9, 9, 2, 4, 3, 5, 1])}

    def program(name: str) -> None:
        calls.append(name)
        clock[0] += next(durations[name])

    times = alternate({name: lambda name=name: program(name) for name in durations}, rounds=5)
    assert calls == ["fast", "slow"] * 7
    assert times["fast"] == Times(1, 0)
    assert times["slow"].median == 3
    assert [sentence.split(" vary")[0] for sentence in warn_of_spread(times)] == ["warning: the times of slow"]


def test_the_peak_is_the_larger_of_both_rates() -> None:
    programs = peak_programs("float32", size=48)
    assert programs["matrix product"][1] == 2 * 48**3
    for program, _ in programs.values():
        program()
    times = {"matrix product": Times(2.0, 0.0), "convolution": Times(0.5, 0.0)}
    rates = peak_rates(times, programs)
    assert rates["peak"] == rates["convolution"] == programs["convolution"][1] / 0.5


def test_operations_are_summed_by_type() -> None:
    factor = tf.ones([64, 64])
    found = top_operations(tf.function(lambda: factor @ factor @ factor))
    products = [calls for kind, _, calls in found if "MatMul" in kind]
    assert sum(products) == 2
    assert [seconds for _, seconds, _ in found] == sorted((seconds for _, seconds, _ in found), reverse=True)


def test_random_boxes_are_inside_of_the_canvas() -> None:
    batch = random_batch(2, 64, 96, boxes=50, classes=4)
    boxes, labels = batch.boxes.numpy(), batch.labels.numpy()
    assert (boxes >= 0).all()
    assert (boxes[..., 2:] <= np.float32([96, 64])).all()
    assert (boxes[..., 2:] - boxes[..., :2] >= 2).all()
    assert set(labels.ravel()) == {1, 2, 3, 4}


def test_the_parts_of_a_request_sum_up_to_what_the_client_measures() -> None:
    stages = {"read": 1, "decode": 9, "prepare": 4, "wait": 2, "detect": 80, "answer": 3, "total": 100}
    lines = ["started", *(json.dumps({"ms": {**stages, "total": total}}) for total in (100, 102, 500))]
    found = read_stages(lines)
    assert found == {**stages, "total": 102, "other": 3}
    parts = parts_of(found, {"decode": 7, "around": 2}, client=110)
    assert list(parts.values()) == [7, 78, 2, 4, 2, 2, 3, 4, 8]
    assert sum(parts.values()) == 110
    assert shares_of(parts) == pytest.approx({"overhead": 25 / 110, "postprocessing": 5 / 110})
