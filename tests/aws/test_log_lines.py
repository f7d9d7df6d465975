"""Metric lines are parsed back into the numbers they were made of, with the prefixes of mpirun and of the log."""

from __future__ import annotations

import pytest

from frcnn.aws.log_lines import read_record
from frcnn.training.metric_lines import metric_line


@pytest.mark.parametrize("before", ["", "algo-1 ", "[1,0]<stdout>:", "algo-2 [1,3]<stdout>:"])
def test_a_metric_line(before: str) -> None:
    values = {"step": 12, "loss": 0.25, "learning_rate": 4.5e-05}
    assert read_record(before + metric_line("train", values)) == {"record": "train", **values}
    assert read_record(before + metric_line("evaluation", {"step": 3, "AP": 0.5})) == {
        "record": "evaluation",
        "step": 3,
        "AP": 0.5,
    }


@pytest.mark.parametrize(
    "line", ["", "== Completed", "algo-1 resources host=algo-1 cpu_percent=1", "train without numbers", "train loss=1"]
)
def test_other_lines(line: str) -> None:
    assert read_record(line) is None
