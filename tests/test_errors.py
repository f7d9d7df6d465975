"""Messages on standard error."""

from __future__ import annotations

import pytest

from frcnn.errors import print_message


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_message("class 'caf\u00e9 \x1b[31mred\x9b\x07'\nnext\tline")
    assert capsys.readouterr().err == "frcnn: class 'caf\u00e9 \\x1b[31mred\\x9b\\x07'\nnext\tline\n"


def test_a_line_that_quotes_a_long_value_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    message = f"option 'x' is {'9' * 1_000_000}, expected a number; correct it\nnext line {'y' * 1500}"
    print_message(message)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("frcnn: option 'x' is 999")
    assert first.endswith("999, expected a number; correct it")
    assert "(998,245 characters left out)" in first
    assert len(first) < 2000
    assert second == message.splitlines()[1]
