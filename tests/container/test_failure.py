"""The failure file: reason, place and advice, from the reports of ranks and mpirun's messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from frcnn.container.failure import Failure, FailureParser, failure_of, failure_of_exit, write_failure
from frcnn.errors import UserError

# As Open MPI 4.1 prints them.
LOST = """--------------------------------------------------------------------------
ORTE has lost communication with a remote daemon.

  HNP daemon   : [[19430,0],0] on node algo-1
  Remote daemon: [[19430,0],1] on node algo-2

This is usually due to either a failure of the TCP network"""
KILLED = "mpirun noticed that process rank 3 with PID 0 on node algo-2 exited on signal 9 (Killed)."


def read(text: str) -> FailureParser:
    parser = FailureParser()
    for line in text.splitlines():
        parser.read(line)
    return parser


def test_first_line_is_reason_and_place_second_is_advice(tmp_path: Path) -> None:
    failure = failure_of(UserError("channel 'train'\nis empty; fill it"), "algo-2", rank=3)
    what, advice, rest = failure.text().split("\n")
    assert what == "channel 'train' is empty; fill it (rank 3, host algo-2)"
    assert "restart the job" in advice
    assert rest == ""
    assert failure_of(ValueError("7"), "algo-1").text().startswith("ValueError: 7 (host algo-1)\n")


@pytest.mark.parametrize("letter", ["x", "é", "箱"])
def test_long_reason_is_cut_and_place_and_advice_are_kept(letter: str) -> None:
    text = Failure(letter * 5000, "Do this.", "algo-1", 0).text()
    assert 1000 < len(text.encode()) <= 1024
    assert text.endswith("… (rank 0, host algo-1)\nDo this.\n")


def test_first_reason_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "output" / "failure"
    assert write_failure(file, Failure("first", "a", "algo-1"))
    assert not write_failure(file, Failure("second", "b", "algo-1"))
    assert file.read_text().startswith("first")
    file.write_text('ExecuteUserScriptError:\nExitCode 1\nErrorMessage ""\nCommand "mpirun --host algo-1')
    assert write_failure(file, Failure("third", "c", "algo-1"))
    assert file.read_text().startswith("third")


def test_rank_report_precedes_mpirun_message_precedes_last_exception() -> None:
    reported = Failure("loss not finite", "Lower the rate.", "algo-2", 3)
    raised = "[1,2]<stderr>:Traceback (most recent call last):\n[1,2]<stderr>:pkg.SomeError: it broke\n"
    tagged = f"[1,3]<stderr>:{reported.line()}\n"
    assert read(raised + KILLED + "\n" + tagged).failure(1, "training", "algo-1") == reported
    killed = read(raised + KILLED).failure(1, "training", "algo-1")
    assert (killed.host, killed.rank, killed.what) == ("algo-2", 3, "the process was terminated by SIGKILL")
    assert "batch_size" in killed.advice
    lost = read(LOST).failure(1, "training", "algo-1")
    assert (lost.host, lost.what) == ("algo-2", "connection to algo-2 was lost")
    toolkits = "sagemaker_training.errors.ExecuteUserScriptError: ExecuteUserScriptError:\n"
    unexplained = read(raised + toolkits).failure(1, "training", "algo-1")
    assert (unexplained.what, unexplained.rank) == ("pkg.SomeError: it broke", 2)
    assert read("all is well").failure(7, "training", "algo-1").what == "training exited with code 7"


def test_missing_program_is_the_failure() -> None:
    line = "/opt/frcnn/bin/python: can't open file '/opt/ml/code/a.py': [Errno 2] No such file or directory"
    assert read(line).failure(2, "training", "algo-1").what == line


def test_escape_sequences_and_lone_surrogates_are_escaped() -> None:
    text = Failure("class '\x1b[31mred\ud800'", "Fix it.", "algo-1").text()
    assert text == "class '\\x1b[31mred\\ud800' (host algo-1)\nFix it.\n"


@pytest.mark.parametrize(
    "report", ['{"what": 5, "advice": "", "host": ""}', '{"what": ""}', "[" * 100_000, '{"what": "hal', '"text"']
)
def test_malformed_report_is_ignored(report: str) -> None:
    assert read(f"frcnn-failure {report}").failure(1, "training", "algo-1").what == "training exited with code 1"


def test_truncated_report_is_ignored() -> None:
    assert read('frcnn-failure {"what": "hal').failure(1, "training", "algo-1").what == "training exited with code 1"


def test_exit_codes() -> None:
    assert failure_of_exit(137, "it", "h").what == "it was terminated by SIGKILL"
    assert failure_of_exit(139, "it", "h").what == "it was terminated by SIGSEGV"
    assert failure_of_exit(255, "it", "h").what == "it exited with code 255"
