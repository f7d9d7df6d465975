"""The failure file: what, where, what to do, and all of it from what a rank or mpirun said."""

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
    clues = FailureParser()
    for line in text.splitlines():
        clues.read(line)
    return clues


def test_first_line_says_what_and_where_and_the_second_what_to_do(tmp_path: Path) -> None:
    failure = failure_of(UserError("channel 'train'\nis empty; fill it"), "algo-2", rank=3)
    what, advice, rest = failure.text().split("\n")
    assert what == "channel 'train' is empty; fill it (rank 3, host algo-2)"
    assert "start the job again" in advice
    assert rest == ""
    assert failure_of(ValueError("7"), "algo-1").text().startswith("ValueError: 7 (host algo-1)\n")


@pytest.mark.parametrize("letter", ["x", "é", "箱"])
def test_however_much_there_is_to_say_1024_bytes_keep_the_place_and_the_advice(letter: str) -> None:
    text = Failure(letter * 5000, "Do this.", "algo-1", 0).text()
    assert 1000 < len(text.encode()) <= 1024
    assert text.endswith("… (rank 0, host algo-1)\nDo this.\n")


def test_the_first_reason_stands(tmp_path: Path) -> None:
    file = tmp_path / "output" / "failure"
    assert write_failure(file, Failure("first", "a", "algo-1"))
    assert not write_failure(file, Failure("second", "b", "algo-1"))
    assert file.read_text().startswith("first")
    file.write_text('ExecuteUserScriptError:\nExitCode 1\nErrorMessage ""\nCommand "mpirun --host algo-1')
    assert write_failure(file, Failure("third", "c", "algo-1"))
    assert file.read_text().startswith("third")


def test_a_ranks_word_counts_most_then_mpiruns_then_the_last_exception() -> None:
    told = Failure("loss not finite", "Lower the rate.", "algo-2", 3)
    raised = "[1,2]<stderr>:Traceback (most recent call last):\n[1,2]<stderr>:pkg.SomeError: it broke\n"
    tagged = f"[1,3]<stderr>:{told.line()}\n"
    assert read(raised + KILLED + "\n" + tagged).failure(1, "training", "algo-1") == told
    killed = read(raised + KILLED).failure(1, "training", "algo-1")
    assert (killed.host, killed.rank, killed.what) == ("algo-2", 3, "the process was ended by SIGKILL")
    assert "batch_size" in killed.advice
    lost = read(LOST).failure(1, "training", "algo-1")
    assert (lost.host, lost.what) == ("algo-2", "connection to algo-2 was lost")
    toolkits = "sagemaker_training.errors.ExecuteUserScriptError: ExecuteUserScriptError:\n"
    unexplained = read(raised + toolkits).failure(1, "training", "algo-1")
    assert (unexplained.what, unexplained.rank) == ("pkg.SomeError: it broke", 2)
    assert read("all is well").failure(7, "training", "algo-1").what == "training ended with exit code 7"


def test_a_mark_that_was_cut_is_no_failure() -> None:
    assert (
        read('frcnn-failure {"what": "hal').failure(1, "training", "algo-1").what == "training ended with exit code 1"
    )


def test_exit_codes() -> None:
    assert failure_of_exit(137, "it", "h").what == "it was ended by SIGKILL"
    assert failure_of_exit(139, "it", "h").what == "it was ended by SIGSEGV"
    assert failure_of_exit(255, "it", "h").what == "it ended with exit code 255"
