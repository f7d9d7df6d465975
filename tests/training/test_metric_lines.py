"""Every metric definition of a job matches the log lines that a run prints, with mpirun's prefixes as well."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from frcnn.training.metric_lines import METRIC_DEFINITIONS, metric_line
from frcnn.training.progress import Progress

LOSSES = {
    "rpn_objectness": 0.5,
    "rpn_box": 1.25e-05,
    "roi_class": 2.0,
    "roi_box": 0.0,
    "loss": 1234567.0,
    "gradient_norm": 3.5,
}
METRICS = {
    "AP": 0.25,
    "best_AP": 0.375,
    "AP50": 0.5,
    "AP75": 0.125,
    "APs": 0.0,
    "APm": -1.0,
    "APl": 1.0,
    "unreadable_images": 3,
    "class_AP": {"AP": 9.0},
}
RESOURCES = {
    "host": "algo-2", "cpu_percent": 51.5, "memory_percent": 7.0, "disk_percent": 0.5,
    "disk_read_mb_s": 1e-07, "disk_write_mb_s": 2.5,
    "network_in_mb_s": 120.0, "network_out_mb_s": 0.0, "gpus": 2, "gpu_percent": 99.0, "gpu_memory_percent": 88.0,
}  # fmt: skip
EXPECTED = {
    **{f"train:{name}": value for name, value in LOSSES.items()}, "train:learning_rate": 0.02,
    **{f"evaluation:{name}": value for name, value in METRICS.items() if name != "class_AP"}, "checkpoint:step": 20,
    **{f"resources:{name}": value for name, value in RESOURCES.items() if name not in ("host", "gpus")},
}  # fmt: skip


@pytest.mark.parametrize("tag", ["", "[1,0]<stdout>:", "[1,mpirank:0,algo-1]<stdout>:"])
def test_every_expression_finds_its_value_and_no_other(tmp_path: Path, tag: str) -> None:
    printed = io.StringIO()
    with Progress(tmp_path, total_steps=40, batch_size=4, log_every=20, stream=printed) as progress:
        progress.step(20, LOSSES, learning_rate=0.02)
        progress.evaluation(20, METRICS)
    printed.write(metric_line("checkpoint", {"step": 20}) + "\n" + metric_line("resources", RESOURCES) + "\n")
    log = [tag + line for line in printed.getvalue().splitlines()]
    found = {}
    for definition in METRIC_DEFINITIONS:
        values = [match[1] for line in log if (match := re.search(definition["Regex"], line))]
        assert len(values) == 1, definition
        found[definition["Name"]] = float(values[0])
    assert found.pop("train:images_per_second") > 0
    assert found == pytest.approx(EXPECTED, rel=1e-5)


def test_definitions_are_within_sagemakers_limits() -> None:
    assert len(METRIC_DEFINITIONS) <= 40
    for definition in METRIC_DEFINITIONS:
        assert re.compile(definition["Regex"]).groups == 1
        assert len(definition["Name"]) <= 255
        assert len(definition["Regex"]) <= 500
