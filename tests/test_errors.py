"""Messages on standard error."""

from __future__ import annotations

import pytest

from frcnn.errors import print_message


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_message("class 'caf\u00e9 \x1b[31mred\x9b\x07'\nnext\tline")
    assert capsys.readouterr().err == "frcnn: class 'caf\u00e9 \\x1b[31mred\\x9b\\x07'\nnext\tline\n"
