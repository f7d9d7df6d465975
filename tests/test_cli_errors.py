"""Errors and signals of the command line: one sentence, and an exit code."""

from __future__ import annotations

import errno
import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_line import error_of, frcnn

from frcnn.__main__ import run
from frcnn.cli.console import Commands

REPOSITORY = Path(__file__).resolve().parent.parent
FRCNN = (sys.executable, "-m", "frcnn")


def test_import_weights_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """tests/weights has the imports that work."""
    file = REPOSITORY / "tests" / "weights" / "golden" / "archive.pth"
    message = error_of("import-weights", file, "--from", "detectron2", "--out", tmp_path / "m")
    assert message.startswith(
        f"frcnn: {file}: not a supported network of Detectron2: it has neither 'res2_0_branch2a_w'"
    )
    assert not (tmp_path / "m").exists()


def test_user_errors_are_one_sentence(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {epochs: 1}")
    assert "unknown option 'trainin.epochs'; did you mean 'training.epochs'?" in error_of(
        "train", "--config", recipe, "trainin.epochs=3"
    )
    assert "nowhere.yaml cannot be read" in error_of("train", "--config", tmp_path / "nowhere.yaml")
    assert "no dataset is configured for the train split" in error_of("train", "--config", recipe)
    assert "is not a model folder" in error_of("evaluate", "--model", tmp_path)
    assert "--images and --annotations must be given together" in error_of(
        "evaluate", "--model", tmp_path, "--images", tmp_path
    )
    photo = REPOSITORY / "docs" / "images"
    assert "is not a model folder" in error_of("predict", photo, "--model", tmp_path, "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "contains no images; expected files that end in .jpg" in error_of(
        "predict", tmp_path / "empty", "--model", tmp_path, "--out", tmp_path / "o"
    )
    assert "is not a folder" in error_of("check-dataset", tmp_path / "nowhere")
    assert "was not written by make-shapes" in error_of("make-shapes", REPOSITORY / "frcnn")


def test_ctrl_c_while_the_commands_are_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "frcnn.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted, *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        run()
    assert (end.value.code, capsys.readouterr().err) == (130, "frcnn: interrupted\n")


def test_an_unusable_file_is_one_sentence_and_a_bug_keeps_its_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert (
        error_of("make-shapes", tmp_path / "file" / "x") == f"frcnn: {tmp_path / 'file'} cannot be used (File exists)"
    )
    for error in (OSError("a broken promise"), OSError(errno.EBADF, "Bad file descriptor")):
        raising = Commands(commands={"raise": click.Command("raise", callback=functools.partial(_raise, error))})
        assert CliRunner().invoke(raising, ["raise"]).exception is error
    full = OSError(errno.ENOSPC, "No space left on device")
    result = CliRunner().invoke(
        Commands(commands={"raise": click.Command("raise", callback=functools.partial(_raise, full))}), ["raise"]
    )
    assert (result.exit_code, result.stderr) == (2, "frcnn: a file cannot be written (No space left on device)\n")


def _raise(error: BaseException) -> None:
    raise error


def test_usage_errors_exit_with_two() -> None:
    assert frcnn("train").exit_code == 2
    assert frcnn("make-shapes", "x", "--images", "3").exit_code == 2
    assert frcnn("paint").exit_code == 2


@pytest.mark.slow
def test_ctrl_c_leaves_without_a_trace(tmp_path: Path) -> None:
    command = subprocess.Popen(
        [*FRCNN, "make-shapes", str(tmp_path / "many"), "--images", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control starts background commands, these tests among them, with SIGINT ignored for good.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not list(tmp_path.glob("*/train/*.jpg")):
            assert command.poll() is None
            time.sleep(0.01)
        command.send_signal(signal.SIGINT)
        said, complained = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == 130
    assert (said, complained) == ("", "frcnn: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tensorflow_says_nothing_at_its_start(tmp_path: Path) -> None:
    command = subprocess.run([*FRCNN, "evaluate", "--model", str(tmp_path)], capture_output=True, text=True)
    assert command.returncode == 2
    assert len(command.stderr.splitlines()) == 1, command.stderr
