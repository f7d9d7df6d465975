"""benchmarks/ablation.py: its plan, its table, and that a rerun skips what is done; the runs themselves are given."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from frcnn.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPT = REPOSITORY / "benchmarks" / "ablation.py"
RECIPE = REPOSITORY / "configs" / "bccd_r18_fpn.yaml"


def test_each_variant_is_run_once_with_each_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specification = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    ablation = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(ablation)
    commands = []

    def command(arguments: list[str]) -> None:
        commands.append(arguments)
        if "evaluate" in arguments:
            name = Path(arguments[arguments.index("--model") + 1]).parent.name
            ap = 0.5 + 0.25 * name.startswith("plain") + 0.125 * name.endswith("-1")
            Path(arguments[-1]).write_text(json.dumps({"AP": ap, "AP50": 0.75, "AP75": 0.5}))
        else:
            folder = Path(next(text for text in arguments if text.startswith("output=")).removeprefix("output="))
            lines = [json.dumps({"step": step}) for step in (20, 240 + ("seed=1" in arguments))]
            (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(ablation, "command", command)
    speeds = iter([4.0, 2.0, 8.0, 1.0, 3.0, 2.5])  # of both variants, in turns
    monkeypatch.setattr(ablation, "command_output", lambda _: f"{next(speeds)}\n")
    monkeypatch.setattr(ablation, "training_index", lambda _: SimpleNamespace(images=range(240)))
    variants = tmp_path / "variants.yaml"
    variants.write_text("baseline: []\nplain anchors: ['anchors.sizes=[16,32,64,128,256]']\n")
    arguments = ["--config", str(RECIPE), "--variants", str(variants), "--minutes", "5", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments, "data.root=bccd"])
    ablation.main()
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    columns = "| variant | AP of each seed | mean AP | difference | AP50 | AP75 | steps of each seed | images/s |"
    assert table[0] == columns
    assert table[2] == "| baseline | 0.500, 0.625 | 0.562 |  | 0.750 | 0.500 | 240, 241 | 4.00 |"
    assert table[3] == "| plain anchors | 0.750, 0.875 | 0.812 | +0.250 | 0.750 | 0.500 | 240, 241 | 2.00 |"
    trained = [arguments for arguments in commands if "train" in arguments]
    assert len(trained) == 4
    options = {"data.root=bccd", "training.epochs=2.0", "training.max_minutes=5.0", "seed=1"}
    assert options | {"anchors.sizes=[16,32,64,128,256]"} <= set(trained[3])
    ablation.main()
    assert len(commands) == 8, "a rerun has nothing left to do"
    variants.write_text("wrong: [anchors.size=3]\n")
    with pytest.raises(UserError, match=r"anchors\.size"):
        ablation.main()
