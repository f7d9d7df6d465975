"""Signals as stop requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frcnn.training.stop import StoppedInStartup, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_recorded_and_execution_continues(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert signal.getsignal(number) == before


def test_second_ctrl_c_interrupts_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_in_startup_ends_the_process_at_once(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with StopRequest(ends_startup=True), pytest.raises(StoppedInStartup) as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"frcnn: {number.name} before the first step: stopped; rerun the same command\n"
    with StopRequest(ends_startup=True) as stop:
        stop.work_begins()
        os.kill(os.getpid(), number)
    assert (stop.received, stop.exit_code) == (number, code)


def test_a_signal_in_startup_ends_a_long_call_of_a_library(tmp_path: Path) -> None:
    script = (
        "import hashlib, sys; from pathlib import Path\n"
        "from frcnn.training.lock import RunLock; from frcnn.training.stop import StopRequest\n"
        "with StopRequest(ends_startup=True):\n"
        "    RunLock.acquire(Path(sys.argv[1])); print('buffered'); print('computing', file=sys.stderr)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"  # half an hour without the GIL and without signals
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "computing\n"
        time.sleep(0.5)  # until the call has begun
        process.send_signal(signal.SIGTERM)
        assert process.communicate() == (
            "buffered\n",
            "frcnn: SIGTERM before the first step: stopped; rerun the same command\n",
        )
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_a_signal_to_another_rank_is_a_termination() -> None:
    assert StopRequest().exit_code == 143


def import_that_fails_on_signals() -> None:
    """As the initialization of an extension module does with any exception."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        raise ImportError("initialization failed") from error


def test_a_signal_during_an_import_ends_the_process_as_well() -> None:
    with pytest.raises(StoppedInStartup) as stopped, StopRequest(ends_startup=True):
        import_that_fails_on_signals()
    assert stopped.value.code == 130


def test_an_error_without_a_signal_passes() -> None:
    with pytest.raises(ImportError), StopRequest(ends_startup=True):
        raise ImportError
