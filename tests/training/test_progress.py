"""Progress records: values, resumed runs, a real terminal."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from frcnn.training.folders import METRICS_FILE, Folders
from frcnn.training.metrics_file import MetricsFile
from frcnn.training.metrics_file import read_records as read_file
from frcnn.training.progress import CURVES_FILE, IMAGES_FOLDER, TENSORBOARD_FOLDER, Progress


def read_records(file: Path) -> list[dict[str, Any]]:
    records, damaged = read_file(file)
    assert damaged == 0
    return records


def run(folder: Path, steps: range, total: int = 10, **options: int) -> str:
    """Take steps with the losses a = step and b = 2 step; returns the printed text."""
    printed = io.StringIO()
    with Progress(folder, total, batch_size=4, start_step=steps.start - 1, stream=printed, **options) as progress:
        for step in steps:
            progress.step(step, {"a": tf.constant(float(step)), "b": 2.0 * step}, learning_rate=tf.constant(0.5 * step))
    return printed.getvalue()


def test_records_are_means_since_the_last_record_and_the_last_step_has_one(tmp_path: Path) -> None:
    run(tmp_path, range(1, 11), log_every=4)
    records = read_records(tmp_path / METRICS_FILE)
    assert [record["step"] for record in records] == [4, 8, 10]
    assert [record["a"] for record in records] == [2.5, 6.5, 9.5]
    assert [record["b"] for record in records] == [5.0, 13.0, 19.0]
    assert [record["learning_rate"] for record in records] == [2.0, 4.0, 5.0]
    assert all(record["record"] == "train" and record["images_per_second"] > 0 for record in records)


def test_without_a_terminal_every_record_is_one_line_of_pairs(tmp_path: Path) -> None:
    lines = run(tmp_path, range(1, 11), log_every=5).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"train step=5 steps=10 a=3 b=6 learning_rate=2\.5 images_per_second=[0-9.e+]+ seconds_left=\d+", lines[0]
    )


def test_a_checkpoint_is_a_line_of_the_log(tmp_path: Path) -> None:
    printed = io.StringIO()
    with Progress(tmp_path, 10, batch_size=4, start_step=0, stream=printed, log_every=5) as progress:
        progress.checkpoint(7)
    assert printed.getvalue() == "checkpoint step=7\n"


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    run(tmp_path / "cut", range(1, 8), log_every=2)  # records of 2, 4, 6; the checkpoint is of step 5
    run(tmp_path / "cut", range(6, 11), log_every=2)
    records = read_records(tmp_path / "cut" / METRICS_FILE)
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    assert [record["a"] for record in records] == [
        1.5,
        3.5,
        6.0,
        7.5,
        9.5,
    ]  # the means of step 6 start at the resumed step


def test_an_incomplete_last_line_is_removed(tmp_path: Path) -> None:
    file = tmp_path / METRICS_FILE
    file.write_text('{"record": "train", "step": 2, "a": 1.0}\n{"record": "train", "st')
    run(tmp_path, range(3, 5), log_every=4)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4]


def test_an_evaluation_is_recorded_once_per_step(tmp_path: Path) -> None:
    printed = io.StringIO()
    metrics = {"AP": 0.5, "APs": None, "AP50": math.nan, "class_AP": {"cell": 0.25, "platelet": math.nan}}
    with Progress(tmp_path, 10, batch_size=4, stream=printed) as progress:
        progress.evaluation(10, metrics)
    with Progress(tmp_path, 10, batch_size=4, start_step=10, stream=printed) as progress:
        progress.evaluation(10, metrics)
    (record,) = read_records(tmp_path / METRICS_FILE)
    expected = {"AP": 0.5, "APs": None, "AP50": None, "class_AP": {"cell": 0.25, "platelet": None}}
    assert record == {"record": "evaluation", "step": 10, **expected}
    assert printed.getvalue() == "evaluation step=10 AP=0.5 AP50=nan\n"
    assert (tmp_path / CURVES_FILE).stat().st_size > 1000


def test_throughput_excludes_the_time_of_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with Progress(tmp_path, 4, batch_size=6, log_every=4, stream=io.StringIO()) as progress:
        for step in range(1, 5):
            now[0] += 3
            progress.step(step, {"a": 0.0}, 0.1)
            if step == 2:
                now[0] += 1000
                progress.evaluation(step, {"AP": 0.1})
    assert read_records(tmp_path / METRICS_FILE)[-1]["images_per_second"] == pytest.approx(4 * 6 / 12)


def test_records_are_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / METRICS_FILE)
    file.append("train", 1, {"a": 1.0})
    assert read_records(tmp_path / METRICS_FILE) == [{"record": "train", "step": 1, "a": 1.0}]
    file.close()


def test_damaged_lines_are_removed_and_counted(tmp_path: Path) -> None:
    file = tmp_path / METRICS_FILE
    good = [{"record": "train", "step": 1, "a": 1.0}, {"record": "evaluation", "step": 2, "AP": None}]
    bad = [
        *(b"\xff\xfe\x00", b"[1, 2]", b"null", b'{"record": "train"}', b'{"record": "train", "step": "2"}'),
        *(
            b'{"record": 3, "step": 2}',
            b'{"record": "train", "step": -1}',
            b"[" * 100_000,
            b'{"step": ' + b"9" * 5000 + b"}",
        ),
    ]
    lines = [json.dumps(good[0]).encode(), *bad, json.dumps(good[1]).encode()]
    file.write_bytes(b"\n".join(lines) + b"\n" + b'{"record": "train", "st')
    assert read_file(file) == (good, len(bad))
    messages: list[str] = []
    metrics = MetricsFile(file, start_step=5, warn=messages.append)
    metrics.append("train", 6, {"a": 2.0})
    metrics.close()
    assert read_file(file) == ([*good, {"record": "train", "step": 6, "a": 2.0}], 0)
    assert messages == [f"warning: {file}: removed {len(bad)} damaged lines; the other 2 records are kept"]


def test_an_evaluation_of_other_data_is_recorded_again(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / METRICS_FILE)
    assert [metrics.append("evaluation", 3, {"data": data}) for data in ("a", "a", "b")] == [True, False, True]
    metrics.close()


def test_a_metrics_file_that_was_deleted_is_reported_and_created_again(tmp_path: Path) -> None:
    messages: list[str] = []
    (tmp_path / "run").mkdir()
    metrics = MetricsFile(tmp_path / "run" / METRICS_FILE, warn=messages.append)
    metrics.append("train", 1, {})
    shutil.rmtree(tmp_path / "run")
    metrics.append("train", 2, {})
    metrics.close()
    assert [record["step"] for record in read_records(tmp_path / "run" / METRICS_FILE)] == [2]
    assert messages == [
        f"warning: {tmp_path / 'run' / METRICS_FILE} was deleted during the run; its earlier records are lost"
    ]


def test_reports_that_cannot_be_written_are_one_warning_each(tmp_path: Path) -> None:
    """Files in the place of folders and the other way round: the run succeeds and reports what it could not write."""
    (tmp_path / TENSORBOARD_FOLDER).write_text("a file")
    (tmp_path / IMAGES_FOLDER).write_text("a file")
    (tmp_path / METRICS_FILE).mkdir()
    printed = io.StringIO()

    def draw(folder: Path) -> list[np.ndarray]:
        raise ZeroDivisionError("a font")

    with Progress(tmp_path, 4, batch_size=4, log_every=1, stream=printed) as progress:
        for step in range(1, 5):
            progress.step(step, {"a": 1.0}, 0.1)
            progress.evaluation(step, {"AP": 0.5})
            progress.images(step, "validation", draw)
        progress.keep_history(Folders(tmp_path, tmp_path.parent / "elsewhere", (tmp_path / "model",)))
        progress.checkpoint(4)
    lines = printed.getvalue().splitlines()
    warnings = [line.partition(" cannot be written (") for line in lines if line.startswith("warning: ")]
    assert [what.removeprefix("warning: ") for what, _, _ in warnings] == [
        str(tmp_path / METRICS_FILE),
        str(tmp_path / TENSORBOARD_FOLDER),
        str(tmp_path / CURVES_FILE),
        str(tmp_path / IMAGES_FOLDER),
        str(tmp_path.parent / "elsewhere" / METRICS_FILE),
    ]
    assert all(reason.endswith("; training continues without it") for _, _, reason in warnings)
    assert "a font" in warnings[3][2]
    assert sum(line.startswith("train step=") for line in lines) == 4
    assert lines[-1] == "checkpoint step=4"


def test_a_terminal_shows_a_bar_with_throughput_losses_and_rate(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from frcnn.training.progress import Progress\n"
        "with Progress(Path(sys.argv[1]), 4, batch_size=2, log_every=2) as progress:\n"
        "    progress.status('compiling the step for 64 x 96')\n"
        "    progress.status('')\n"
        "    for step in range(1, 5): progress.step(step, {'loss': 1.5}, 0.02)\n"
        "    progress.message('saved')\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))  # rows and columns
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], stdout=theirs, stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    text = shown.decode()
    assert "compiling the step for 64 x 96: 0%" in re.sub(r" +", " ", text)
    assert "compiling" not in text[text.index("4/4") :]
    assert "4/4" in text
    assert "loss=1.500" in text
    assert "lr=0.02" in text
    assert "images/s=" in text
    assert "saved\r\n" in text
    assert "train step=" not in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux reports the end of a terminal as an input/output error
        return b""


def test_a_terminal_without_width_gets_lines(tmp_path: Path) -> None:
    """mpirun creates such terminals; a progress bar would have no columns there."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, Progress(tmp_path, total_steps=1, batch_size=1, stream=stream) as progress:
        progress.step(1, {"loss": 0.5}, 0.1)
    assert os.read(ours, 1000).decode().startswith("train step=1 steps=1 loss=0.5 ")
