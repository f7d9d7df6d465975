"""Files and overrides that are made to break the parser: one sentence each."""

from __future__ import annotations

import itertools
import string
from pathlib import Path

import pytest

from frcnn.config import load_config
from frcnn.errors import UserError


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000], ids=["digits", "depth"])
def test_absurd_values_are_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"option 'training\.epochs'"):
        load_config(None, [f"training.epochs={text}"])
    file = tmp_path / "recipe.yaml"
    file.write_text(f"training: {{epochs: {text}}}")
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        load_config(file)


PAIRS = itertools.pairwise(string.ascii_lowercase)
ALIASES = "a: &a [0, 0]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in PAIRS)  # 2**26 values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: 0x" + "f" * 5000, "integer of thousands of digits"),
        ("seed: " + ":".join("1" * 3000), "integer of thousands of digits"),
        ("? 0x" + "f" * 5000 + "\n: 1", "integer of thousands of digits"),
        ("seed: !!timestamp x", "is not valid YAML"),
        ("seed: !!bool x", "is not valid YAML"),
        ("seed: !!int ''", "is not valid YAML"),
        (ALIASES, "more than 100,000 values, aliases included"),
    ],
)
def test_yaml_that_is_larger_than_it_looks_or_of_another_type(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"recipe\.yaml.*{reason}"):
        load_config(file)
